"""From the bytes of a stranger's picture to an upright RGB image, or a reason why not.

Content decides, never a file name or a content type. Nothing is decoded before its header says how large
it would become. Everything here may be called from several threads.
"""

import io
import os
import threading
import warnings

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Formats decoded; never one that starts another program (EPS) or calls on the system (WMF)."""
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000
"""Largest picture decoded: 50 megapixels, 150 MB as RGB."""
MIN_SIDE = 8
"""Pixels; shops serve a 1x1 picture for "no picture"."""
LONG_SIDE = 1024
"""Encoders see a few hundred pixels a side; batches hold pictures reduced to this, to bound memory."""
THREADS = min(os.cpu_count() or 1, 8)
"""Pictures measured at once; each may take four bytes for each of its pixels."""
_measuring = threading.BoundedSemaphore(THREADS)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation; from 5 on width and height change places."""

# Of what is refused here anyhow Pillow need not warn. Once for the process, as warnings.catch_warnings is not for
# threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(Exception):
    """Why there is no picture: a status of features.item_images.STATUSES and what exactly happened."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def _open(data: bytes) -> Image.Image:
    """Read the header only; refuse what is not a picture, or would become too large."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_large", str(error)) from error
    except Exception as error:  # Pillow's parsers raise anything from OSError to struct.error
        raise PictureError("not_an_image", f"{type(error).__name__}, starts with {data[:16]!r}") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError("too_large", f"{width}x{height} pixels, at most {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise PictureError("too_small", f"{width}x{height} pixels, at least {MIN_SIDE} a side")
    return picture


def _orientation(picture: Image.Image) -> int:
    """1 to 8 as EXIF counts them; 1, upright, if what is said cannot be read."""
    try:
        said = picture.getexif().get(_ORIENTATION)
        return said if said in _TURNS else 1
    except Exception:  # as above
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bit scaled to 8, transparency over white."""
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def decode(data: bytes) -> Image.Image:
    """The upright RGB image of a picture's bytes; the first frame of an animation.

    Raises:
        PictureError: not_an_image, too_large, too_small, or broken (recognised but does not decode).
    """
    picture = _open(data)
    try:
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        return _rgb(picture if turn is None else picture.transpose(turn))
    except Exception as error:  # as above
        raise _broken(picture, error) from error


def measure(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of what :func:`decode` would give, or its error; at a fraction of time and memory.

    All bytes are decoded, but a JPEG at an eighth of its size, and one pixel is converted to RGB. At most THREADS
    threads do so at once, the others wait.
    """
    with _measuring:
        return _measure(_open(data))


def _measure(picture: Image.Image) -> tuple[int, int]:
    size = picture.size
    try:
        if picture.draft(picture.mode, (1, 1)) is None:
            picture.load()
            size = picture.size  # a TIFF sets itself upright
        else:
            picture.load()
        _rgb(picture.crop((0, 0, 1, 1)))
    except Exception as error:  # as above
        raise _broken(picture, error) from error
    return size if _orientation(picture) < 5 else size[::-1]


def _broken(picture: Image.Image, error: Exception) -> PictureError:
    return PictureError("broken", f"{picture.format}: {error}")


def format_of(data: bytes) -> str:
    """File extension by content, lower case: jpeg, png, gif, webp, bmp, tiff."""
    name = (_open(data).format or "").lower()
    return "jpeg" if name == "mpo" else name  # MPO: a JPEG with more pictures behind the first


def bounded(picture: Image.Image) -> Image.Image:
    """The picture at most LONG_SIDE pixels on its long side, for batches whose memory must stay bounded."""
    if max(picture.size) > LONG_SIDE:
        picture = picture.copy()
        picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC)
    return picture
