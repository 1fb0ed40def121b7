"""Files that are either complete or absent, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["flush", "replacing", "write_durably"]


@contextmanager
def replacing(path: Path, unfinished: Path | None = None) -> Iterator[BinaryIO]:
    """A new file with the name `unfinished` beside `path`. When it is complete and on disk, it is renamed to `path`.

    Without a name, it is `path` with the number of this process as suffix. An error before that leaves nothing behind;
    a kill leaves `unfinished`. If there is a link with that name, it is not followed but causes an OSError.
    """
    unfinished = unfinished or path.with_suffix(f".{os.getpid()}")
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
    """Write `text` and flush it to disk before returning. A kill may leave a part of it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on disk.

    Then a power failure cannot undo a rename.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
