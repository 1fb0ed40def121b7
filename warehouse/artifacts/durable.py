"""Files that are there whole or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["flush", "replacing", "write_durably"]


@contextmanager
def replacing(path: Path, unfinished: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, called `unfinished` until it is whole and on the disk, when it takes the name `path`.

    What goes wrong meanwhile leaves nothing behind; a kill leaves `unfinished`. A link of that name is not written
    through: it is an OSError.
    """
    try:
        with open(unfinished, "wb", opener=_not_through_a_link) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_durably(path: Path, text: str) -> None:
    """Write `text` and flush it to the disk before returning. A kill may leave a part of it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk.

    A loss of power then takes back no rename.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
