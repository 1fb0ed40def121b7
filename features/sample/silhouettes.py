"""The outline of every kind of product, as plain numbers in a box of 100 x 100 (origin top left).

This module holds only shapes. `features.sample.pictures` adds colour, pattern, material and trim.

An outline is a sequence of shapes that are painted one over the other. Each shape names a layer: `BODY` has the colour
and the pattern, `PART` has only the colour, but darker (handles, legs), `DARK` is nearly black (seams, wheels), and
`HOLE` shows the background.
"""

from typing import Literal, NamedTuple

Tool = Literal["polygon", "ellipse", "box", "line", "arc"]
Layer = tuple[int, int, int, int]

# One channel per layer; the fourth channel is for the trim, which surrounds everything that is painted.
BODY: Layer = (255, 0, 0, 0)
PART: Layer = (0, 255, 0, 0)
DARK: Layer = (0, 0, 255, 0)
HOLE: Layer = (0, 0, 0, 0)


class Shape(NamedTuple):
    """One shape: x, y pairs, and in `extra` a corner radius, a line width, or (start, end, width) of an arc."""

    layer: Layer
    tool: Tool
    numbers: tuple[float, ...]
    extra: tuple[float, ...] = ()


def _polygon(layer: Layer, *numbers: float) -> Shape:
    return Shape(layer, "polygon", numbers)


def _ellipse(layer: Layer, *numbers: float) -> Shape:
    return Shape(layer, "ellipse", numbers)


def _box(layer: Layer, x0: float, y0: float, x1: float, y1: float, radius: float = 0) -> Shape:
    return Shape(layer, "box", (x0, y0, x1, y1), (radius,))


def _line(layer: Layer, width: float, *numbers: float) -> Shape:
    return Shape(layer, "line", numbers, (width,))


def _arc(layer: Layer, x0: float, y0: float, x1: float, y1: float, start: float, end: float, width: float) -> Shape:
    return Shape(layer, "arc", (x0, y0, x1, y1), (start, end, width))


SILHOUETTES: dict[str, tuple[Shape, ...]] = {
    # kitchen
    "mug": (
        _arc(PART, 56, 34, 92, 72, -110, 110, 8),
        _box(BODY, 16, 22, 72, 86, 8),
        _ellipse(DARK, 20, 19, 68, 29),
    ),
    "kettle": (
        _arc(PART, 24, 6, 76, 60, 180, 360, 7),
        _polygon(PART, 70, 50, 96, 34, 98, 42, 74, 72),
        _polygon(BODY, 26, 36, 74, 36, 84, 86, 16, 86),
        _ellipse(BODY, 26, 28, 74, 44),
        _ellipse(DARK, 45, 22, 55, 32),
    ),
    "pan": (
        _line(PART, 10, 62, 40, 96, 8),
        _ellipse(BODY, 4, 26, 72, 94),
        _arc(DARK, 13, 35, 63, 85, 0, 360, 2.5),
    ),
    "spatula": (
        _line(PART, 8, 50, 56, 50, 97),
        _polygon(BODY, 24, 4, 76, 4, 70, 54, 56, 62, 44, 62, 30, 54),
        _line(HOLE, 4, 42, 14, 42, 44),
        _line(HOLE, 4, 58, 14, 58, 44),
    ),
    "bowl": (
        Shape(BODY, "arc", (4, -10, 96, 84), (0, 180, 47)),
        _box(PART, 36, 80, 64, 90, 2),
        _ellipse(DARK, 5, 31, 95, 44),
    ),
    "spoon": (
        _line(PART, 9, 50, 40, 50, 97),
        _ellipse(BODY, 26, 2, 74, 60),
        _arc(DARK, 33, 10, 67, 52, 200, 300, 2.5),
    ),
    "knife": (
        _polygon(BODY, 4, 38, 64, 30, 64, 62, 30, 62),
        _box(PART, 62, 36, 97, 54, 7),
        _ellipse(DARK, 70, 42, 75, 47),
        _ellipse(DARK, 84, 42, 89, 47),
    ),
    "board": (
        _box(PART, 40, 2, 60, 24, 8),
        _box(BODY, 20, 16, 80, 97, 8),
        _ellipse(HOLE, 46, 6, 54, 14),
    ),
    "jar": (
        _box(BODY, 22, 26, 78, 96, 16),
        _box(PART, 28, 6, 72, 22, 4),
        _line(DARK, 3, 30, 26, 70, 26),
    ),
    # garden
    "flowerpot": (
        _line(PART, 5, 50, 50, 50, 18),
        _ellipse(PART, 30, 14, 50, 26),
        _ellipse(PART, 50, 22, 70, 34),
        _polygon(BODY, 20, 56, 80, 56, 68, 97, 32, 97),
        _box(BODY, 14, 44, 86, 58, 3),
        _line(DARK, 2.5, 20, 59, 80, 59),
    ),
    "watering can": (
        _arc(PART, 4, 34, 50, 84, 90, 270, 7),
        _line(PART, 8, 62, 74, 88, 34),
        _polygon(DARK, 78, 32, 96, 24, 98, 36, 88, 44),
        _box(BODY, 22, 40, 70, 90, 6),
        _arc(PART, 26, 20, 66, 60, 180, 360, 6),
    ),
    "spade": (
        _box(PART, 34, 2, 66, 12, 4),
        _line(PART, 8, 50, 6, 50, 56),
        _polygon(BODY, 24, 48, 76, 48, 76, 76, 50, 98, 24, 76),
    ),
    "rake": (
        _line(PART, 7, 50, 2, 50, 60),
        _polygon(BODY, 44, 44, 56, 44, 94, 72, 6, 72),
        *(_line(BODY, 7, x, 70, x, 97) for x in (11, 30.5, 50, 69.5, 89)),
    ),
    "glove": (
        _box(PART, 30, 78, 74, 97, 4),
        _box(BODY, 28, 42, 76, 82, 10),
        *(_line(BODY, 11, x, 50, x, y) for x, y in ((34, 16), (46, 8), (58, 8), (70, 16))),
        *(_ellipse(BODY, x - 5, y - 6, x + 5, y + 4) for x, y in ((34, 16), (46, 8), (58, 8), (70, 16))),
        _line(BODY, 12, 32, 70, 14, 46),
        _ellipse(BODY, 8, 40, 20, 52),
    ),
    "boot": (
        _box(BODY, 22, 6, 58, 84, 4),
        _box(BODY, 22, 56, 92, 86, 13),
        _box(DARK, 20, 84, 94, 93, 2),
        _box(PART, 20, 6, 60, 18, 3),
    ),
    "lantern": (
        _arc(PART, 34, 0, 66, 32, 180, 360, 5),
        _polygon(PART, 22, 32, 50, 14, 78, 32),
        _box(BODY, 26, 32, 74, 84, 2),
        _line(DARK, 3.5, 50, 32, 50, 84),
        _line(DARK, 3.5, 26, 58, 74, 58),
        _box(PART, 20, 84, 80, 95, 2),
    ),
    "birdhouse": (
        _box(BODY, 22, 40, 78, 92, 0),
        _polygon(PART, 50, 6, 94, 46, 84, 52, 50, 22, 16, 52, 6, 46),
        _polygon(BODY, 50, 22, 78, 46, 22, 46),
        _ellipse(DARK, 40, 44, 60, 64),
        _line(DARK, 5, 50, 70, 50, 80),
    ),
    "parasol": (
        _line(PART, 6, 50, 40, 50, 92),
        _box(DARK, 32, 90, 68, 97, 2),
        Shape(BODY, "arc", (4, 8, 96, 108), (180, 360, 50)),
        *(_arc(HOLE, x, 50, x + 30.7, 66, 180, 360, 9) for x in (4, 34.7, 65.3)),
        _ellipse(DARK, 46, 3, 54, 11),
    ),
    # sports
    "ball": (
        _ellipse(BODY, 8, 8, 92, 92),
        _arc(DARK, -44, 14, 30, 86, -52, 52, 3),
        _arc(DARK, 70, 14, 144, 86, 128, 232, 3),
    ),
    "racket": (
        _line(PART, 10, 50, 60, 50, 97),
        _ellipse(BODY, 20, 2, 80, 70),
        _arc(DARK, 26, 8, 74, 64, 0, 360, 3),
    ),
    "jersey": (
        _polygon(BODY, 30, 10, 70, 10, 97, 32, 84, 50, 74, 42, 74, 94, 26, 94, 26, 42, 16, 50, 3, 32),
        _ellipse(PART, 38, 2, 62, 20),
        _line(DARK, 2.5, 26, 44, 26, 70),
        _line(DARK, 2.5, 74, 44, 74, 70),
    ),
    "cap": (
        Shape(BODY, "arc", (8, 16, 76, 104), (180, 360, 44)),
        _polygon(PART, 8, 60, 76, 58, 97, 68, 94, 75, 64, 70, 8, 70),
        _ellipse(DARK, 38, 11, 46, 19),
    ),
    "sneaker": (
        _polygon(BODY, 6, 28, 36, 28, 50, 46, 82, 56, 96, 72, 96, 78, 6, 78),
        _box(PART, 4, 76, 97, 88, 4),
        _line(DARK, 3, 36, 40, 48, 34),
        _line(DARK, 3, 43, 48, 55, 42),
        _line(DARK, 3, 51, 55, 62, 48),
    ),
    "dumbbell": (
        _box(PART, 28, 45, 72, 55, 0),
        _box(BODY, 16, 22, 34, 78, 5),
        _box(BODY, 66, 22, 84, 78, 5),
        _box(BODY, 3, 32, 15, 68, 4),
        _box(BODY, 85, 32, 97, 68, 4),
    ),
    "skateboard": (
        _polygon(BODY, 2, 34, 12, 34, 20, 46, 80, 46, 88, 34, 98, 34, 88, 62, 12, 62),
        _ellipse(DARK, 18, 60, 38, 80),
        _ellipse(DARK, 62, 60, 82, 80),
        _ellipse(PART, 24, 66, 32, 74),
        _ellipse(PART, 68, 66, 76, 74),
    ),
    "helmet": (
        Shape(BODY, "arc", (8, 10, 92, 104), (180, 360, 47)),
        _box(PART, 6, 54, 94, 66, 5),
        _arc(DARK, 28, 52, 72, 98, 0, 180, 4),
        _polygon(DARK, 42, 18, 58, 18, 55, 40, 45, 40),
    ),
    "flask": (
        _box(PART, 38, 2, 62, 18, 3),
        _polygon(BODY, 36, 20, 64, 20, 74, 34, 74, 96, 26, 96, 26, 34),
        _line(DARK, 3.5, 26, 44, 74, 44),
    ),
    # toys
    "teddy bear": (
        _ellipse(PART, 18, 4, 40, 26),
        _ellipse(PART, 60, 4, 82, 26),
        _ellipse(PART, 8, 50, 32, 74),
        _ellipse(PART, 68, 50, 92, 74),
        _ellipse(PART, 18, 78, 46, 98),
        _ellipse(PART, 54, 78, 82, 98),
        _ellipse(BODY, 22, 44, 78, 94),
        _ellipse(BODY, 22, 6, 78, 54),
        _ellipse(DARK, 36, 24, 43, 31),
        _ellipse(DARK, 57, 24, 64, 31),
        _ellipse(DARK, 44, 35, 56, 44),
    ),
    "kite": (
        _line(PART, 3.5, 50, 68, 40, 78, 56, 86, 44, 98),
        _polygon(PART, 34, 76, 42, 80, 36, 86),
        _polygon(BODY, 50, 2, 88, 32, 50, 74, 12, 32),
        _line(DARK, 2.5, 50, 2, 50, 74),
        _line(DARK, 2.5, 12, 32, 88, 32),
    ),
    "train": (
        _box(BODY, 50, 12, 92, 76, 2),
        _box(BODY, 8, 38, 60, 76, 6),
        _box(PART, 16, 18, 30, 40, 0),
        _box(PART, 46, 6, 97, 16, 2),
        _box(HOLE, 62, 24, 80, 42, 0),
        *(_ellipse(DARK, x, 72, x + 22, 94) for x in (10, 38, 68)),
    ),
    "car": (
        _polygon(BODY, 24, 28, 66, 28, 82, 50, 18, 50),
        _box(BODY, 3, 48, 97, 74, 8),
        _polygon(HOLE, 30, 33, 44, 33, 44, 48, 24, 48),
        _polygon(HOLE, 50, 33, 63, 33, 73, 48, 50, 48),
        _ellipse(DARK, 14, 62, 38, 86),
        _ellipse(DARK, 62, 62, 86, 86),
    ),
    "boat": (
        _line(PART, 5, 48, 6, 48, 72),
        _polygon(BODY, 52, 8, 88, 62, 52, 62),
        _polygon(PART, 44, 18, 44, 62, 16, 62),
        _polygon(BODY, 6, 70, 96, 70, 80, 94, 22, 94),
    ),
    "rocket": (
        _polygon(PART, 32, 56, 12, 84, 32, 80),
        _polygon(PART, 68, 56, 88, 84, 68, 80),
        _polygon(DARK, 38, 82, 62, 82, 50, 99),
        _polygon(BODY, 50, 2, 66, 26, 70, 56, 66, 84, 34, 84, 30, 56, 34, 26),
        _ellipse(DARK, 40, 28, 60, 48),
    ),
    "duck": (
        _polygon(PART, 78, 22, 98, 28, 78, 38),
        _ellipse(BODY, 42, 4, 86, 48),
        _polygon(BODY, 4, 44, 40, 56, 60, 36, 88, 52, 86, 78, 70, 92, 26, 92, 10, 76),
        _ellipse(DARK, 66, 18, 73, 25),
        _arc(DARK, 26, 48, 66, 78, 20, 160, 3),
    ),
    "robot": (
        _line(PART, 3.5, 50, 14, 50, 2),
        _box(BODY, 28, 12, 72, 40, 4),
        _box(BODY, 20, 44, 80, 82, 4),
        _box(PART, 6, 46, 17, 76, 4),
        _box(PART, 83, 46, 94, 76, 4),
        _box(PART, 28, 84, 44, 97, 2),
        _box(PART, 56, 84, 72, 97, 2),
        _ellipse(DARK, 36, 20, 46, 30),
        _ellipse(DARK, 54, 20, 64, 30),
    ),
    "spinning top": (
        _box(PART, 45, 4, 55, 34, 3),
        _polygon(BODY, 8, 42, 20, 32, 80, 32, 92, 42, 54, 92, 46, 92),
        _line(DARK, 3.5, 8, 43, 92, 43),
        _polygon(DARK, 44, 88, 56, 88, 50, 99),
    ),
    # office
    "pencil": (
        _polygon(BODY, 24, 60, 74, 10, 92, 28, 42, 78),
        _polygon(PART, 74, 10, 80, 4, 98, 22, 92, 28),
        _polygon(PART, 24, 60, 42, 78, 12, 90),
        _polygon(DARK, 16, 78, 24, 86, 6, 96),
    ),
    "notebook": (
        _box(BODY, 20, 4, 86, 96, 4),
        _box(PART, 20, 4, 32, 96, 3),
        *(_line(DARK, 4, 12, y, 30, y) for y in (16, 33, 50, 67, 84)),
    ),
    "lamp": (
        _line(PART, 6, 50, 40, 50, 90),
        _box(PART, 26, 88, 74, 97, 3),
        _polygon(BODY, 34, 4, 66, 4, 90, 50, 10, 50),
        _line(DARK, 2.5, 72, 52, 72, 66),
    ),
    "stapler": (
        _polygon(BODY, 6, 30, 86, 18, 96, 28, 96, 46, 10, 52),
        _box(PART, 4, 72, 97, 84, 4),
        _polygon(PART, 74, 46, 96, 46, 96, 74, 84, 74),
        _polygon(DARK, 6, 53, 72, 49, 72, 58, 6, 60),
    ),
    "scissors": (
        _polygon(BODY, 24, 2, 38, 4, 62, 62, 52, 66),
        _polygon(BODY, 76, 2, 62, 4, 38, 62, 48, 66),
        _arc(PART, 12, 58, 46, 96, 0, 360, 9),
        _arc(PART, 54, 58, 88, 96, 0, 360, 9),
        _ellipse(DARK, 46, 48, 54, 56),
    ),
    "folder": (
        _polygon(PART, 6, 20, 40, 20, 48, 30, 92, 30, 92, 44, 6, 44),
        _polygon(BODY, 4, 40, 97, 40, 90, 88, 10, 88),
    ),
    "clock": (
        _polygon(PART, 24, 80, 34, 86, 24, 98, 16, 94),
        _polygon(PART, 76, 80, 66, 86, 76, 98, 84, 94),
        _ellipse(PART, 12, 2, 40, 28),
        _ellipse(PART, 60, 2, 88, 28),
        _ellipse(BODY, 10, 10, 90, 90),
        _line(DARK, 5, 50, 50, 50, 24),
        _line(DARK, 5, 50, 50, 68, 60),
    ),
    "calculator": (
        _box(BODY, 18, 3, 82, 97, 7),
        _box(DARK, 26, 11, 74, 29, 2),
        *(_box(DARK, x, y, x + 9, y + 8, 2) for x in (28, 45.5, 63) for y in (40, 58, 76)),
    ),
    "paperclip": (
        _arc(BODY, 26, 2, 74, 50, 180, 360, 11),
        _box(BODY, 26, 25, 37, 76, 0),
        _box(BODY, 63, 25, 74, 62, 0),
        _arc(BODY, 26, 50, 62, 98, 0, 180, 11),
        _box(BODY, 51, 34, 62, 76, 0),
        _box(BODY, 63, 50, 74, 80, 0),
    ),
}
