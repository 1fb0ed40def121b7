"""Picture sheets: search results as a PNG or as one HTML page that opens without a server.

Pictures come from outside, so a sheet shows thumbnails that are made here. Titles come from outside too, so the page
escapes them.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageFont

from features.errors import FeatureError
from features.lookup.search import Hit
from features.pictures.decode import PictureError, decode

__all__ = ["contact_sheet", "sheet_form", "write_sheet"]

Sample = tuple[Hit, str, bytes | None]
"""A hit, its title, and the bytes of its picture or None."""

_TILE: Final = 160
_QUALITIES: Final = (70, 50, 30, 10)
"""Qualities of WebP, best first."""
_FORMS: Final[dict[str, Literal["png", "html"]]] = {".png": "png", ".html": "html", ".htm": "html"}


def sheet_form(path: Path) -> Literal["png", "html"]:
    """The form of a sheet with this file name.

    Raises:
        FeatureError: the name ends with neither .png nor .html or .htm.
    """
    if path.suffix.lower() not in _FORMS:
        raise FeatureError(f"{path}: a sheet is a picture or a page; give a name that ends with .png or .html")
    return _FORMS[path.suffix.lower()]


def write_sheet(samples: Iterable[Sample], path: Path, heading: str = "Search results") -> None:
    """Write search results, best first, as a PNG or as a page. The file name decides the form.

    Args:
        samples: the hits; a hit without a usable picture gets an empty frame.
        path: ends with .png or .html.
        heading: title of the page.

    Raises:
        FeatureError: the name has another ending, or the file cannot be written.
    """
    form = sheet_form(path)
    try:
        if form == "html":
            path.write_text(_page(list(samples), heading), encoding="utf-8")
        else:
            labelled = [(f"{hit.score:.3f} {title}", data) for hit, title, data in samples]
            _grid(labelled, 5, _TILE).save(path, "PNG")
    except OSError as error:
        raise FeatureError(f"{path}: the sheet cannot be written: {error}") from error


def contact_sheet(samples: Sequence[tuple[str, bytes | None]], columns: int, tile: int, size: int) -> bytes:
    """A small WebP file with pictures in a grid, each with its title below.

    Args:
        samples: titles and the bytes of pictures; a title without a usable picture gets an empty frame.
        columns: pictures per row.
        tile: pixels per side of a picture.
        size: bytes that the sheet should not exceed. Its quality is lowered until it fits. If even the lowest quality
            does not fit, the sheet is larger.
    """
    sheet = _grid(samples, columns, tile)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= size:
            break
    return buffer.getvalue()


def _page(samples: Sequence[Sample], heading: str) -> str:
    """One HTML file with all its pictures. Its policy forbids browsers to fetch anything, whatever a title contains."""
    figures = "\n".join(_figure(*sample) for sample in samples)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{escape(heading)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px system-ui, sans-serif; margin: 24px; }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({_TILE}px, 1fr)); gap: 24px 16px; padding: 0; }}
li {{ list-style: none; overflow-wrap: anywhere; }}
img, .none {{ display: block; width: {_TILE}px; height: {_TILE}px; object-fit: contain; margin-bottom: 6px; }}
.none {{ box-sizing: border-box; border: 1px solid #ccc; }}
small {{ opacity: .7; }}
</style>
</head>
<body>
<h1>{escape(heading)}</h1>
<ol>
{figures}
</ol>
</body>
</html>
"""


def _figure(hit: Hit, title: str, data: bytes | None) -> str:
    picture = _thumbnail(data, 2 * _TILE)  # sharp on dense screens too
    shown = f'<img alt="" src="{_data_uri(picture)}">' if picture else '<div class="none"></div>'
    return f"<li>{shown}<b>{hit.score:.3f}</b> {escape(title)}<br><small>{escape(hit.item_id)}</small></li>"


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grid(samples: Sequence[tuple[str, bytes | None]], columns: int, tile: int) -> Image.Image:
    """Pictures in a grid, each with its label below; an empty frame if there is no picture."""
    font = ImageFont.load_default(12)
    line, gap = 15, 8
    height = tile + 2 * line + gap
    rows = max(1, math.ceil(len(samples) / columns))
    sheet = Image.new("RGB", (columns * (tile + gap) + gap, rows * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, data) in enumerate(samples):
        left, top = gap + number % columns * (tile + gap), gap + number // columns * height
        picture = _thumbnail(data, tile)
        if picture:
            sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
        else:
            pen.rectangle((left, top, left + tile - 1, top + tile - 1), outline="#cccccc")
        for row, text in enumerate(_wrap(label, font, tile)):
            pen.text((left, top + tile + 2 + row * line), text, fill="#333333", font=font)
    return sheet


def _thumbnail(data: bytes | None, side: int) -> Image.Image | None:
    if data is None:
        return None
    try:
        picture = decode(data)
    except PictureError:
        return None
    picture.thumbnail((side, side))
    return picture


def _wrap(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most two lines of the label, the second cut with an ellipsis."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines[:2]
    for row, text in enumerate(shown):
        cut = len(lines) > 2 and row == 1
        while text and font.getlength(text + "…" * cut) > width:
            text, cut = text[:-1], True
        shown[row] = text + "…" * cut
    return shown
