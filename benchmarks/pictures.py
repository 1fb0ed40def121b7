"""Seeded random JPEGs, and the artifact item_images with them, for the benchmarks of extraction."""

import io
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from features.parquet import write_table
from features.pictures.shards import ShardWriter
from features.tables import ITEM_IMAGES
from features.vectors.loading import Original


def jpegs(count: int, seed: int = 0, sides: tuple[int, int] = (300, 501)) -> list[bytes]:
    """JPEGs of smooth shapes with some grain, like product pictures; each side is at least the first of `sides`, and
    below the second."""
    chance, made = np.random.default_rng(seed), []
    for _ in range(count):
        width, height = chance.integers(*sides, 2)
        coarse = Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = chance.integers(-12, 13, (height, width, 1), np.int16)
        buffer = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def numbered(pictures: list[bytes], count: int) -> list[bytes]:
    """`count` JPEGs that all differ: the pictures in turn, each with its number in a comment."""
    made = []
    for number in range(count):
        data = pictures[number % len(pictures)]
        made.append(data[:2] + b"\xff\xfe" + struct.pack(">HI", 6, number) + data[2:])
    return made


def write_images(folder: Path, pictures: list[bytes]) -> list[Original]:
    """Write the artifact item_images with these pictures. Returns the place of each."""
    folder.mkdir()
    originals, rows = [], []
    with ShardWriter(folder) as writer:
        for number, data in enumerate(pictures):
            item_id, digest = f"item{number:07}", sha256(data).hexdigest()
            place = writer.add(item_id, data, {"sha256": digest})
            originals.append(Original(item_id, digest, place, len(data)))
            rows.append(image_row(originals[-1]))
    write_table(pa.Table.from_pylist(rows, schema=ITEM_IMAGES), folder / "item_images.parquet", ITEM_IMAGES)
    return originals


def image_row(original: Original) -> dict[str, Any]:
    """A row of item_images."""
    place = {"shard": original.place.shard, "offset": original.place.offset, "bytes": original.size}
    return {"item_id": original.item_id, "status": "ok", "sha256": original.sha256, **place}
