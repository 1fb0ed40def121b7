"""Decodes the bytes of an untrusted picture to an upright RGB image, or gives the reason for a failure.

The content decides the format, never a file name or a content type. Nothing is decoded before its header shows the size
of the result. All functions may be called from several threads.
"""

import io
import math
import struct
import threading
import warnings

import numpy as np
from PIL import Image, features

from warehouse.artifacts.threads import available_cores

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []))
"""Formats that are decoded. A format that starts another program (EPS) or calls the system (WMF) must not be here. AVIF
is decoded if Pillow was built with it, as its wheels are."""
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000
"""Pixels of the largest picture that is decoded: 50 megapixels, which take 200 MB as RGB in Pillow."""
MAX_WEBP_PIXELS = MAX_PIXELS // 4
"""The same limit for WebP and AVIF, whose decoders take four times the memory: the decoder of WebP treats every picture
as an animation with two canvases, and that of AVIF also holds the planes that it makes pixels from."""
MAX_UNENDED_PIXELS = MAX_PIXELS // 4
"""The same limit for a JPEG without its end marker. It is decoded once more for each of `_FILLINGS`, to check that
nothing else is missing."""
MAX_SCANS = 100
"""Most scans of a JPEG; about ten are usual. A scan of a few bytes can cost a pass over all pixels."""
MAX_TIFF_PARTS = 1 << 16
"""Most strips or tiles of a TIFF; each takes hundreds of bytes of memory, but only two bytes of the file."""
MAX_TILE_PIXELS = 1 << 24
"""Most pixels of a tile of a TIFF; a tile may be larger than the picture."""
MIN_SIDE = 8
"""Pixels per side. Smaller pictures are refused, because shops serve a 1x1 picture for "no picture"."""
LONG_SIDE = 1024
"""Pixels. Pictures in batches are reduced to this, to bound memory; encoders see only a few hundred pixels per side."""
THREADS = min(available_cores(), 8)
"""Pictures that are measured at the same time; each may take four bytes per pixel."""
_measuring = threading.BoundedSemaphore(THREADS)
_ORIENTATION = 0x0112
_ORDERS = {b"II": "<", b"MM": ">"}
"""Byte orders by the first two bytes of a TIFF."""
_TIFF_PARTS, _TIFF_TILE = (273, 324), (322, 323)
"""Tags of a TIFF: the offsets of strips or tiles; the width and length of a tile."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Markers of a JPEG: the start of a scan, and the end of the picture. The bytes of a scan contain neither."""
_FILLINGS = (b"\x00", b"\x55", b"\xb7")
"""Bytes that decode to different codes in all usual code tables."""
_BAND = 256
"""Rows that are converted at once; a conversion may need memory for three more pictures of this height."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes a picture upright, by its EXIF orientation; from 5 on, width and height are swapped."""

# A status says what is wrong with a picture, and for some pictures Pillow's warnings are thousands of lines. They are
# switched off for the whole process, because warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(Exception):
    """Why there is no picture: a status of `item_images.STATUSES`, and details."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def _open(data: bytes) -> Image.Image:
    """Read only the header; refuse content that is not a picture or that would become too large."""
    if data[:2] in _ORDERS:
        _check_tiff(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_large", str(error)) from error
    except Exception as error:  # Pillow's parsers raise anything from OSError to struct.error
        raise PictureError("not_an_image", f"{type(error).__name__}, starts with {data[:16]!r}") from error
    width, height = picture.size
    most = MAX_WEBP_PIXELS if picture.format in ("WEBP", "AVIF") else MAX_PIXELS
    if width * height > most:
        raise PictureError("too_large", f"{width}x{height} pixels, at most {most:,}")
    if min(width, height) < MIN_SIDE:
        raise PictureError("too_small", f"{width}x{height} pixels, at least {MIN_SIDE} per side")
    if picture.format in ("JPEG", "MPO") and (scans := data.count(_SCAN)) > MAX_SCANS:
        raise PictureError("too_large", f"{scans:,} scans, at most {MAX_SCANS}")
    unended = picture.format == "JPEG" and data.rfind(_END) < data.rfind(_SCAN)
    if unended and width * height <= MAX_UNENDED_PIXELS and _lacks_end_only(data):
        return Image.open(io.BytesIO(data + _END), formats=("JPEG",))
    return picture


def _lacks_end_only(data: bytes) -> bool:
    """Whether a JPEG without an end marker has all its pixels.

    The decoder would make missing pixels from the bytes that follow, so different fillings would give different
    pictures.
    """
    try:
        pictures = (
            np.asarray(Image.open(io.BytesIO(data + 250 * filling + _END), formats=("JPEG",))) for filling in _FILLINGS
        )
        first = next(pictures)
        return all(np.array_equal(first, other) for other in pictures)
    except Exception:  # as above
        return False


def _check_tiff(data: bytes) -> None:
    """Refuse a TIFF that costs far more than its pixels. Pillow would build all that its first directory lists."""
    order = _ORDERS[data[:2]]
    sides: dict[int, int] = {}
    if 43 in data[2:4]:
        raise PictureError("not_an_image", "a BigTIFF, a format for files of gigabytes")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", data, place)
            if tag in _TIFF_PARTS and count > MAX_TIFF_PARTS:
                raise PictureError("too_large", f"{count:,} strips or tiles, at most {MAX_TIFF_PARTS:,}")
            if tag in _TIFF_TILE:
                (side,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 8)
                sides[tag] = max(side, sides.get(tag, 0))
    except struct.error as error:
        raise PictureError("not_an_image", f"a TIFF without a directory ({error})") from error
    if math.prod(sides.values()) > MAX_TILE_PIXELS:
        raise PictureError("too_large", f"tiles of {math.prod(sides.values()):,} pixels, at most {MAX_TILE_PIXELS:,}")


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it cannot be read."""
    try:
        orientation = picture.getexif().get(_ORIENTATION)
        return orientation if orientation in _TURNS else 1
    except Exception:  # as above
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB: 16 bits are scaled to 8, and transparent parts become white."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    whole = Image.new("RGB", picture.size)
    for top in range(0, picture.height, _BAND):
        band = picture.crop((0, top, picture.width, min(top + _BAND, picture.height)))
        whole.paste(_band_as_rgb(band), (0, top))
    return whole


def _band_as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def decode(data: bytes, least: int | None = None) -> Image.Image:
    """The upright RGB image of a picture's bytes; the first frame of an animation.

    Args:
        data: the bytes.
        least: a JPEG whose sides are at least twice as long is decoded at a half, a quarter or an eighth of its size,
            with sides of at least this many pixels. This is several times as fast for large pictures. None decodes
            everything at full size.

    Raises:
        PictureError: not_an_image, too_large, too_small, or broken (recognised but does not decode).
    """
    picture = _open(data)
    kind = picture.format
    try:
        if least is not None:
            picture.draft(picture.mode, (least, least))  # does nothing to other formats than JPEG
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        upright: Image.Image = _rgb(picture)
        del picture  # so that at most two large pictures are in memory at once
        return upright if turn is None else upright.transpose(turn)
    except Exception as error:  # as above
        raise _broken(kind, error) from error


def upright_header(data: bytes) -> Image.Image | None:
    """The picture of which only the header is read, within the limits; None if it must be turned to be upright.

    Raises:
        PictureError: not_an_image, too_large or too_small.
    """
    picture = _open(data)
    return picture if _orientation(picture) == 1 else None


def measure(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the image that :func:`decode` would give, or its error, with less time and memory.

    All bytes are decoded, but a JPEG only at an eighth of its size, and only one pixel is converted to RGB. At most
    THREADS threads do this at once; the others wait.
    """
    with _measuring:
        return _measure(_open(data))


def _measure(picture: Image.Image) -> tuple[int, int]:
    size = picture.size
    try:
        if picture.draft(picture.mode, (1, 1)) is None:
            picture.load()
            size = picture.size  # a TIFF is made upright by `load`
        else:
            picture.load()
        _rgb(picture.crop((0, 0, 1, 1)))
    except Exception as error:  # as above
        raise _broken(picture.format, error) from error
    return size if _orientation(picture) < 5 else size[::-1]


def _broken(kind: str | None, error: Exception) -> PictureError:
    return PictureError("broken", f"{kind}: {error}")


def format_of(data: bytes) -> str:
    """File extension by content, lower case: jpeg, png, gif, webp, bmp, tiff, avif."""
    name = (_open(data).format or "").lower()
    return "jpeg" if name == "mpo" else name  # MPO: a JPEG with more pictures after the first


def bounded(picture: Image.Image) -> Image.Image:
    """The picture, reduced to at most LONG_SIDE pixels on its long side, so that the memory of a batch is bounded."""
    if max(picture.size) > LONG_SIDE:
        picture = picture.copy()
        picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC)
    return picture
