"""The staging area of a store: separate folders that are removed with the process that made them; and the store's lock.

    <root>/.staging/<random>/    what a process is making, and `lock`, which it holds as long as it runs
    <root>/.lock                 held while something moves into place

The system releases locks when a process ends in any way, so leftovers and the work of running processes cannot be
confused. A store may come from elsewhere: no link in it is followed, and only folders that look like those made here
are removed from the staging area. `warehouse.artifacts.store` decides what is made and where it goes.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from warehouse.artifacts.durable import flush
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.locks import held, is_held

__all__ = ["HELD", "RECIPE", "Staging", "make_folder", "room_for", "unlinked"]

HELD: Final = "held.json"
"""In a folder of the staging area: which versions its process reads."""
RECIPE: Final = "recipe"
"""In a folder of the staging area: the digest of the recipe that its process builds."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_LOCK: Final = "lock"


class Staging:
    """The staging area and the lock of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time holds this lock, for short moments. Every change of the store needs it.

        Raises:
            ReadOnlyError: the store cannot be written to.
        """
        make_folder(self.root)
        with held(self.root / ".lock"):
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """`lock` for readers: a store that is not writable is read without the lock."""
        with ExitStack() as stack:
            with suppress(ReadOnlyError):
                stack.enter_context(self.lock())
            yield

    @contextmanager
    def new(self) -> Iterator[Path]:
        """A folder that contains only its lock, on the file system of the store. It is removed with its contents at the
        end."""
        folder = self._area / uuid.uuid4().hex
        with ExitStack() as stack:
            stack.callback(_remove, folder)
            with self.lock():  # so that nobody sweeps it between the two lines
                folder.mkdir(parents=True)
                stack.enter_context(held(folder / _LOCK))
            yield folder

    def sweep(self) -> int:
        """Remove the leftovers of ended processes, and return the number of folders."""
        if not self._folders():
            return 0
        with self.lock():
            left = self.folders(living=False)
            for folder in left:
                _remove(folder)
            return len(left)

    def folders(self, living: bool) -> list[Path]:
        """The folders of running processes, or those of ended processes. Call it under `lock`."""
        return [folder for folder in self._folders() if is_held(folder / _LOCK) == living]

    @property
    def _area(self) -> Path:
        return unlinked(self.root, self.root / ".staging")

    def _folders(self) -> list[Path]:
        return [path for path in self._area.glob("*") if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """Whether this was made by `Staging.new`: its name, and its lock, unless the process ended before it made one."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    with suppress(FileNotFoundError):  # its process removes it
        lock = path / _LOCK
        return lock.is_file() and not lock.is_symlink() if os.path.lexists(lock) else not any(path.iterdir())
    return False


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: one that a kill leaves half removed is still known."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink(missing_ok=True)
        shutil.rmtree(folder)


def unlinked(root: Path, path: Path) -> Path:
    """Return `path`, which lies below `root`, if neither it nor a folder between the two is a link. `root` may be a
    link.

    Raises:
        StoreError: the path goes through a link, whose target may belong to anybody.
    """
    for part in (path, *path.parents):
        if part == root:
            break
        if part.is_symlink():
            raise StoreError(
                f"{part} is a link, and links inside a data folder are not followed: remove it, or put in its place "
                f"what it leads to. To keep data on another disk, let the whole folder {root} be the link"
            )
    return path


def make_folder(folder: Path) -> None:
    """Make a folder and its parents durably, so that they survive a power failure."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


@contextmanager
def room_for(doing: str, place: Path) -> Iterator[None]:
    """Turn the error of any library that there is no space into one that names `place` and what was being done.

    Raises:
        StoreError: there is no space.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise StoreError(
                f"no space left in {place} while {doing}; nothing was published: free some space and run it again"
            ) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, means that a disk, a quota or a file is full.

    Arrow keeps the error number. DuckDB keeps the system's text, or mentions the space for its spilled data.
    """
    texts = [*map(os.strerror, _NO_ROOM), "max_temp_directory_size"]
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False
