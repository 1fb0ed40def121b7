"""Draws the picture of a product: its silhouette in its colour and pattern, shaded by its material, with a rim of its
trim.

Shapes come from `features.sample.silhouettes`; `features.sample.files` writes the files.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from features.sample.products import Product
from features.sample.silhouettes import SILHOUETTES, Shape

SIZE = 96
"""Width and height of a picture, in pixels."""

_FINE = 4  # silhouettes are painted this many times larger, then reduced, so that edges are smooth
_MARGIN = 0.1  # share of the picture that is left free on each side, because the position varies

Field = npt.NDArray[np.float32]

_COLOURS = {
    "red": (206, 32, 40),
    "orange": (243, 128, 20),
    "yellow": (247, 214, 40),
    "green": (52, 148, 62),
    "turquoise": (40, 190, 190),
    "blue": (40, 76, 196),
    "purple": (120, 48, 160),
    "pink": (246, 132, 184),
    "grey": (118, 122, 130),
}
_TRIMS = {"black": (24, 24, 30), "white": (255, 255, 255), "gold": (198, 148, 22)}
_BACKDROPS = ((196, 206, 214), (206, 204, 196), (200, 210, 198), (210, 200, 206))
_ACCENT = np.array((255, 250, 238), np.float32)
_DARK = np.array((38, 34, 40), np.float32)
_WOOD = np.array((150, 98, 52), np.float32)

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def draw_picture(product: Product, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of `SIZE` x `SIZE` pixels; `rng` moves, turns and mirrors the object and picks the background."""
    body, part, dark, whole = _placed(product.kind, rng)
    base = np.array(_COLOURS[product.colour], np.float32)
    pattern = _pattern(product.pattern, rng)[..., None]
    fill = base * (1 - 0.88 * pattern) + _ACCENT * 0.88 * pattern
    fill = _shaded(fill, product.material, rng)
    handle = _shaded(np.broadcast_to(base * 0.68, fill.shape), product.material, rng)

    backdrop = np.array(_BACKDROPS[int(rng.integers(len(_BACKDROPS)))], np.float32)
    picture = backdrop * (1.06 - 0.12 * _Y[..., None] / SIZE)
    picture = picture * (1 - whole) + np.array(_TRIMS[product.trim], np.float32) * whole
    for mask, paint in ((part, handle), (body, fill), (dark, _DARK)):
        picture = picture * (1 - mask) + paint * mask
    pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _placed(kind: str, rng: np.random.Generator) -> tuple[Field, Field, Field, Field]:
    """Masks of body, part, dark, and the whole with its rim, each [size, size, 1] in 0..1, moved randomly by `rng`."""
    angle = np.deg2rad(rng.uniform(-9, 9))
    zoom = 1 / rng.uniform(0.88, 1.06)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    shift_x, shift_y = rng.uniform(-0.035, 0.035, 2) * SIZE
    cos, sin, half = np.cos(angle) * zoom, np.sin(angle) * zoom, SIZE / 2
    a, b, d, e = mirror * cos, mirror * sin, -sin, cos
    c, f = (
        half - a * (half + shift_x) - b * (half + shift_y),
        half - d * (half + shift_x) - e * (half + shift_y),
    )
    moved = _silhouette(kind).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    masks: Field = np.asarray(np.asarray(moved) / 255, np.float32)
    body, part, dark, whole = (masks[..., channel, None] for channel in range(4))
    return body, part, dark, whole


@cache
def _silhouette(kind: str) -> Image.Image:
    """The outline before it is moved, with the channels body, part, dark, and the whole with its rim.

    CMYK is used as four plain channels. With RGBA, Pillow would multiply the others by the fourth when it resamples.
    """
    side = _FINE * SIZE
    image = Image.new("CMYK", (side, side))
    draw = ImageDraw.Draw(image)
    for shape in SILHOUETTES[kind]:
        _paint(draw, shape, side)
    body, part, dark, _ = image.split()
    union = Image.fromarray(np.maximum.reduce([np.asarray(layer) for layer in (body, part, dark)]))
    rim = union
    for _ in range(3):  # three small filters grow the shape as far as one of size 19, in a sixth of the time
        rim = rim.filter(ImageFilter.MaxFilter(7))
    return Image.merge("CMYK", (body, part, dark, rim)).reduce(_FINE)


def _paint(draw: ImageDraw.ImageDraw, shape: Shape, side: int) -> None:
    scale = side * (1 - 2 * _MARGIN) / 100
    numbers = [side * _MARGIN + scale * number for number in shape.numbers]
    if shape.tool == "polygon":
        draw.polygon(numbers, fill=shape.layer)
    elif shape.tool == "ellipse":
        draw.ellipse(numbers, fill=shape.layer)
    elif shape.tool == "box":
        draw.rounded_rectangle(numbers, radius=shape.extra[0] * scale, fill=shape.layer)
    elif shape.tool == "line":
        draw.line(numbers, fill=shape.layer, width=round(shape.extra[0] * scale), joint="curve")
    else:
        start, end, width = shape.extra
        draw.arc(numbers, start, end, fill=shape.layer, width=round(width * scale))


def _pattern(name: str, rng: np.random.Generator) -> Field:
    """How much of the accent colour is visible at each pixel, [size, size] in 0..1."""
    period = 13.0  # pixels
    x, y = _X + rng.uniform(0, period), _Y + rng.uniform(0, period)
    if name == "striped":
        wave = np.sin(2 * np.pi * y / period)
    elif name == "dotted":
        wave = 2.6 * np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period) - 1.1
    elif name == "checked":
        wave = 2.0 * np.sin(np.pi * x / period) * np.sin(np.pi * y / period)
    elif name == "zigzag":
        wave = np.sin(2 * np.pi * (y + 0.9 * np.abs((x % period) - period / 2)) / period)
    else:
        wave = np.full_like(x, -1)
    return np.asarray(np.clip(0.5 + 3 * wave, 0, 1), np.float32)


def _shaded(fill: Field, material: str, rng: np.random.Generator) -> Field:
    """`fill` with the shading of the material, [size, size, 3]."""
    x, y = _X / SIZE, _Y / SIZE
    if material == "glossy":  # round shading and two hard reflections
        shade = (1.12 - 0.9 * (x - 0.42) ** 2 - 0.5 * (y - 0.4) ** 2)[..., None]
        glint = np.exp(-(((x + 0.25 * y - 0.45) / 0.035) ** 2)) + 0.6 * np.exp(-(((x + 0.25 * y - 0.55) / 0.016) ** 2))
        return np.asarray(fill * shade + 190 * np.clip(glint, 0, 1)[..., None], np.float32)
    if material == "wood":  # grain: wavy lines, tinted brown
        grain = np.sin(2 * np.pi * (9 * x + 0.55 * np.sin(2 * np.pi * (1.3 * y + rng.random()))))
        tinted = 0.62 * fill + 0.38 * _WOOD
        return np.asarray(tinted * (0.92 + 0.2 * grain)[..., None], np.float32)
    if material == "metal":  # brushed: broad bands of light, slightly grey
        bands = 0.5 + 0.5 * np.sin(2 * np.pi * (1.9 * (x - 0.6 * y) + rng.random()))
        greyed = 0.72 * fill + 0.28 * np.float32(150)
        return np.asarray(greyed * (0.55 + 0.75 * bands)[..., None], np.float32)
    speckle = rng.normal(0, 0.05, (SIZE, SIZE))
    return np.asarray(fill * (0.93 + speckle)[..., None], np.float32)
