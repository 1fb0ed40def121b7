"""Recognises the JPEGs that every decoder turns into the same picture, apart from rounding: plain baseline ones.

Pillow copes with much that others refuse or show differently: progressive and arithmetic coding, CMYK, RGB without a
transform, a missing end, an orientation. Such pictures are left to it.
"""

import struct

from PIL import Image

from features.pictures.decode import upright_header

MAX_BYTES = 4 * 2**20
"""Bytes of the longest JPEG that counts as plain, so that a batch of them fits into memory."""
MAX_RATIO = 8
"""Most times that a plain JPEG may be longer than wide, or wider than long. If the shorter side of a stripe is enlarged
to a given size, the longer side takes gigabytes; Pillow's way reduces it first."""
_START, _FRAME, _SCAN, _END = 0xD8, 0xC0, 0xDA, 0xD9
_TABLES = 0xC4
"""The marker of Huffman tables; the other markers from 0xC0 to 0xCF start frames (0xC8 and 0xCC never do)."""
_PLAIN_SAMPLING = ((0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x22, 0x11, 0x11), (0x12, 0x11, 0x11))
"""Sampling factors of Y, Cb and Cr: 4:4:4, 4:2:2, 4:2:0 and 4:4:0."""
_COLOURS = (1, 2, 3)
"""The usual numbers of Y, Cb and Cr. Others may mean RGB."""


def plain_area(data: bytes) -> int | None:
    """The number of pixels of a plain JPEG: upright, baseline, in YCbCr, and of at most MAX_BYTES and MAX_RATIO.

    None for any other picture.

    Raises:
        PictureError: not_an_image, too_large or too_small, by the limits of :mod:`features.pictures.decode`.
    """
    picture = upright_header(data)
    if picture is None or picture.format != "JPEG" or picture.mode != "RGB" or len(data) > MAX_BYTES:
        return None
    if max(picture.size) > MAX_RATIO * min(picture.size):
        return None
    try:
        return picture.width * picture.height if _is_plain(data, picture) else None
    except (struct.error, IndexError):  # the markers end too early
        return None


def _is_plain(data: bytes, picture: Image.Image) -> bool:
    """Walk over the markers up to the first scan, which must be the only one, after a single frame."""
    frames, place = 0, 2
    if data[:2] != bytes((0xFF, _START)):
        return False
    while data[place] == 0xFF:
        marker = data[place + 1]
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker == _SCAN:
            one = data.find(bytes((0xFF, _SCAN)), place + 2) < 0
            return frames == 1 and one and data[place + 4] == len(_COLOURS) and data.endswith(bytes((0xFF, _END)))
        if 0xC0 <= marker <= 0xCF and marker != _TABLES:
            if marker != _FRAME or not _is_plain_frame(data[place + 4 : place + 2 + length], picture):
                return False
            frames += 1
        place += 2 + length
    return False


def _is_plain_frame(frame: bytes, picture: Image.Image) -> bool:
    bits, height, width, colours = struct.unpack_from(">BHHB", frame)
    numbers, sampling = tuple(frame[6::3]), tuple(frame[7::3])
    transform = picture.info.get("adobe_transform", 1)
    return (
        (bits, colours, transform) == (8, len(_COLOURS), 1)
        and (width, height) == picture.size
        and numbers == _COLOURS
        and sampling in _PLAIN_SAMPLING
    )
