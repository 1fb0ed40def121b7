"""Write an answer of the catalogue to a Parquet file. The queries themselves are read-only.

The file never replaces anything that the pipeline owns: nothing in the data folder, and no read-only file (published
files are read-only).
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import CommandError
from warehouse.artifacts.durable import replacing
from warehouse.catalogue.query import Answer

__all__ = ["check_target", "write_parquet"]


def check_target(file: Path, data: Path) -> Path:
    """The resolved path of `file`, if an answer may be written there. `data` is the data folder.

    Raises:
        CommandError: the file has another suffix, is in the data folder, or would replace something protected.
    """
    if file.suffix != ".parquet":
        raise CommandError(f"{file}: --out writes Parquet: give a name that ends with .parquet")
    if not file.parent.is_dir():
        raise CommandError(f"{file}: there is no folder {file.parent}: create it, or give another name")
    place = file.parent.resolve() / file.name
    if place.is_relative_to(data.resolve()):
        raise CommandError(f"{file} lies in the data folder {data}, where only the pipeline writes: write elsewhere")
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return place
    if not stat.S_ISREG(mode):
        raise CommandError(f"{file} is not a regular file: give another name")
    if not mode & 0o222:
        raise CommandError(f"{file} is read-only, as published files are: give another name")
    return place


def write_parquet(answer: Answer, place: Path) -> int:
    """Write an answer part by part and return its number of rows. A file at `place` is replaced at the end.

    Raises:
        CommandError: two columns have the same name, Parquet lacks a type, or the file cannot be written.
    """
    twice = sorted({name for name in answer.columns if answer.columns.count(name) > 1})
    if twice:
        raise CommandError(f"two columns are named {twice[0]}: give one another name with AS")
    try:
        with replacing(place, place.with_name(f".{place.name}.{uuid4().hex}")) as file:
            return sum(_write(answer, pq.ParquetWriter(file, answer.schema, compression="zstd")))
    except (OSError, pa.ArrowException) as error:
        raise CommandError(f"{place} cannot be written: {error}") from error


def _write(answer: Answer, writer: pq.ParquetWriter) -> Iterator[int]:
    """Write the parts, and yield the number of rows of each."""
    with writer:
        for batch in answer.batches:
            writer.write_batch(batch)
            yield batch.num_rows
