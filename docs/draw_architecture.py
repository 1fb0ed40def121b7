"""Draws docs/images/architecture.svg: the rooms, what is in them, and what imports what. `make docs` runs it.

Within a room, what stands higher imports what stands lower. An arrow that follows from others is left out.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

ROOMS = ("pipelines", "features", "warehouse", "mmm4rec")
WIDTH, LETTER, HIGH, GAP, MARGIN = 1180, 7.3, 30, 16, 14
"""Pixels: of the picture, of a letter, the height of a box, between boxes, and inside a frame."""
LEVEL = HIGH + 46
HEAD = 34
COLOURS = {"pipelines": "#8250df", "features": "#1a7f37", "warehouse": "#0969da", "mmm4rec": "#bc4c00"}

Edges = Mapping[str, set[str]]


@dataclass(frozen=True)
class Box:
    """A package or module of a room, and where its upper left corner is, once it is placed."""

    name: str
    package: bool
    left: float = 0
    top: float = 0

    @property
    def title(self) -> str:
        """Its name within the room."""
        return self.name.partition(".")[2] + ("/" if self.package else "")

    @property
    def width(self) -> float:
        """Pixels."""
        return len(self.title) * LETTER + 18


def imports() -> tuple[list[str], Edges]:
    """The boxes of all rooms, and for each those that it imports, at the top of a module or in a function."""
    graph = grimp.build_graph(*ROOMS, exclude_type_checking_imports=True)
    boxes = sorted(child for room in ROOMS for child in graph.find_children(room))
    for box in boxes:
        graph.squash_module(box)
    return boxes, {box: graph.find_modules_directly_imported_by(box) & {*boxes} - {box} for box in boxes}


def measured(name: str) -> Box:
    """The box of a package or module, not placed yet."""
    return Box(name, ROOT.joinpath(*name.split(".")).is_dir())


def reduced(edges: Edges) -> Edges:
    """Without the arrows that follow from others."""

    def reached(box: str) -> set[str]:
        found: set[str] = set()
        pending = [box]
        while pending:
            new = edges[pending.pop()] - found
            found |= new
            pending.extend(new)
        return found

    return {box: {to for to in of if not any(to in reached(other) for other in of - {to})} for box, of in edges.items()}


def levels(boxes: list[str], edges: Edges) -> list[list[str]]:
    """The boxes of a room from top to bottom; each stands above all that it imports, and as low as it can."""
    depth: dict[str, int] = {}
    for box in TopologicalSorter({box: sorted(edges[box]) for box in boxes}).static_order():
        depth[box] = max((depth[to] + 1 for to in edges[box]), default=0)
    rows = [[box for box in boxes if depth[box] == level] for level in range(max(depth.values()), -1, -1)]
    # Beside those that they are imported by, so that arrows cross less.
    for above, row in pairwise(rows):
        place = {box: number for number, box in enumerate(above)}

        def centre(box: str, place: Mapping[str, int] = place) -> float:
            users = [place[user] for user in place if box in edges[user]]
            return sum(users) / len(users) if users else len(place) / 2

        row.sort(key=lambda box: (centre(box), box))
    return rows


def width_of(row: Sequence[Box]) -> float:
    """Pixels of boxes side by side."""
    return sum(box.width for box in row) + GAP * (len(row) - 1)


def rows_that_fit(rows: list[list[str]], width: float) -> Iterator[list[Box]]:
    """The same rows, measured, and broken where they are wider than a frame."""
    for row in rows:
        part: list[Box] = []
        for box in map(measured, row):
            if part and width_of([*part, box]) > width - 2 * MARGIN:
                yield part
                part = []
            part.append(box)
        yield part


def place(room: str, edges: Edges, boxes: list[str], left: float, top: float, width: float) -> tuple[list[Box], float]:
    """The boxes of a room in a frame, and where the frame ends."""
    own = [box for box in boxes if box.startswith(f"{room}.")]
    inner = {box: {to for to in edges[box] if to in own} for box in own}
    placed = []
    y = top + HEAD
    for row in rows_that_fit(levels(own, inner), width):
        x = left + (width - width_of(row)) / 2
        for box in row:
            placed.append(replace(box, left=x, top=y))
            x += box.width + GAP
        y += LEVEL
    return placed, y - LEVEL + HIGH + MARGIN


def draw() -> str:
    """The picture as SVG."""
    boxes, edges = imports()
    half = (WIDTH - GAP) / 2
    frames: list[tuple[str, float, float, float, float]] = []
    placed: list[Box] = []

    def frame(room: str, left: float, top: float, width: float) -> float:
        found, bottom = place(room, edges, boxes, left, top, width)
        placed.extend(found)
        frames.append((room, left, top, width, bottom))
        return bottom

    below = frame("pipelines", 0, 0, WIDTH) + 2 * GAP
    middle = frame("features", 0, below, half) + 2 * GAP
    bottom = frame("warehouse", 0, middle, half)
    bottom = max(bottom, frame("mmm4rec", half + GAP, below, half))
    body = [*(part for each in frames for part in frame_lines(*each)), *arrows(placed, edges)]
    body += [line for box in placed for line in box_lines(box)]
    text = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {WIDTH + 4} {bottom + 4:.0f}" '
        f'font-family="system-ui, sans-serif" font-size="13">\n'
        f'<rect x="-2" y="-2" width="{WIDTH + 4}" height="{bottom + 4:.0f}" fill="white"/>\n{text}\n</svg>\n'
    )


def frame_lines(room: str, left: float, top: float, width: float, bottom: float) -> list[str]:
    """A room with its name and what it is for."""
    docstring = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    note = " ".join(docstring.partition(".")[0].split())
    return [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{bottom - top:.0f}" rx="8" '
        f'fill="{COLOURS[room]}" fill-opacity="0.05" stroke="{COLOURS[room]}"/>',
        f'<text x="{left + MARGIN:.0f}" y="{top + 21:.0f}" fill="{COLOURS[room]}" font-weight="600">{room}/</text>',
        f'<text x="{left + MARGIN + 90:.0f}" y="{top + 21:.0f}" fill="#57606a" font-size="11">{escape(note)}</text>',
    ]


def box_lines(box: Box) -> list[str]:
    """A box with its name; the border of a package is thicker than that of a module."""
    colour = COLOURS[box.name.partition(".")[0]]
    middle = box.left + box.width / 2
    return [
        f'<rect x="{box.left:.1f}" y="{box.top:.0f}" width="{box.width:.1f}" height="{HIGH}" rx="5" fill="white" '
        f'stroke="{colour}" stroke-width="{1.6 if box.package else 0.8}"/>',
        f'<text x="{middle:.1f}" y="{box.top + 20:.0f}" text-anchor="middle">{escape(box.title)}</text>',
    ]


def arrows(placed: list[Box], edges: Edges) -> list[str]:
    """Within a room, and from the feature store to the artifact store; `pipelines` imports from all rooms."""
    where = {box.name: box for box in placed}
    found = []
    for name, imported in reduced(edges).items():
        for to in sorted(imported):
            own = name.partition(".")[0] == to.partition(".")[0]
            if own or name.startswith("features."):
                one, other = where[name], where[to]
                x, y = one.left + one.width / 2, one.top + HIGH
                u, v = other.left + other.width / 2, other.top
                colour = COLOURS[name.partition(".")[0]]
                bend = min(40.0, abs(v - y) / 2)
                found.append(
                    f'<path d="M{x:.1f},{y:.0f} C{x:.1f},{y + bend:.0f} {u:.1f},{v - bend:.0f} {u:.1f},{v:.0f}" '
                    f'fill="none" stroke="{colour}" stroke-opacity="0.45"/>'
                )
                found.append(f'<circle cx="{u:.1f}" cy="{v:.0f}" r="2.5" fill="{colour}"/>')
    return found


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
