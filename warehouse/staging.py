"""Where a store makes things: folders of their own that vanish with the process that made them, and its lock.

    <root>/.staging/<random>/    what a process is making, and `lock`, which it holds as long as it lives
    <root>/.lock                 held while something moves into place

The system takes locks away when a process ends, however it ends, so no leftover is taken for the work of a living
process, nor the other way round. What is made and where it goes is the business of `warehouse.store`.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Staging", "fsync", "held", "is_full", "make_folder"]

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Staging:
    """The staging area and the lock of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time is in here: for moments, not for work."""
        make_folder(self.root)
        with held(self.root / ".lock"):
            yield

    @contextmanager
    def new(self) -> Iterator[Path]:
        """An empty folder but for its lock, on the file system of the store; removed at the end with all it holds."""
        folder = self.root / ".staging" / uuid.uuid4().hex
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with self.lock():  # so that nobody sweeps it between the two lines
                folder.mkdir(parents=True)
                stack.enter_context(held(folder / "lock"))
            yield folder

    def sweep(self) -> int:
        """Remove what ended processes have left, and return how many folders that were."""
        if not self._folders():
            return 0
        with self.lock():
            left = self.folders(living=False)
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            return len(left)

    def folders(self, living: bool) -> list[Path]:
        """The folders of processes that live, or those that ended ones have left; to be asked under `lock`."""
        return [folder for folder in self._folders() if _in_use(folder) == living]

    def _folders(self) -> list[Path]:
        return [path for path in (self.root / ".staging").glob("*") if path.is_dir() and not path.is_symlink()]


def make_folder(folder: Path) -> None:
    """Make a folder with all above it, so that it is there after a power failure too."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync(folder.parent)


def fsync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one it comes from, says that a disk, a quota or a file is full.

    Arrow keeps the error number; DuckDB keeps the system's text, or speaks of the room for its spilled data.
    """
    texts = [*map(os.strerror, _NO_ROOM), "max_temp_directory_size"]
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a file, made if need be; without `wait`, on one that is there, or BlockingIOError.

    The system lets go of it when the process ends. A file, since network file systems lock no folders.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if wait else 0), 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            # Closing alone would leave it with a child forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _in_use(folder: Path) -> bool:
    try:
        with held(folder / "lock", wait=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False  # killed before it was made, or being removed by its owner
