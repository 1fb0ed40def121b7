"""Where a store makes things: folders of their own that vanish with the process that made them, and its lock.

    <root>/.staging/<random>/    what a process is making, and `lock`, which it holds as long as it lives
    <root>/.lock                 held while something moves into place

The system takes locks away when a process ends, however it ends, so no leftover is taken for the work of a living
process, nor the other way round. A store may come from elsewhere: no link in it is followed, and of the staging area
only folders that look as they are made here are removed. What is made and where it goes is the business of
`warehouse.artifacts.store`.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from warehouse.artifacts.errors import ReadOnlyError, StoreError

__all__ = ["READ_ONLY", "Staging", "fsync", "held", "is_full", "is_held", "make_folder", "unlinked"]

READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a place that this process may not write to."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_LOCK: Final = "lock"

_log = logging.getLogger("mmm4rec")


class Staging:
    """The staging area and the lock of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time is in here: for moments, not for work. Whatever changes the store passes here.

        Raises:
            ReadOnlyError: the store cannot be written to.
        """
        make_folder(self.root)
        with held(self.root / ".lock"):
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """`lock` for who changes nothing: a store that cannot be written to is looked at without it."""
        with ExitStack() as stack:
            with suppress(ReadOnlyError):
                stack.enter_context(self.lock())
            yield

    @contextmanager
    def new(self) -> Iterator[Path]:
        """An empty folder but for its lock, on the file system of the store; removed at the end with all it holds."""
        folder = self._area / uuid.uuid4().hex
        with ExitStack() as stack:
            stack.callback(_remove, folder)
            with self.lock():  # so that nobody sweeps it between the two lines
                folder.mkdir(parents=True)
                stack.enter_context(held(folder / _LOCK))
            yield folder

    def sweep(self) -> int:
        """Remove what ended processes have left, and return how many folders that were."""
        if not self._folders():
            return 0
        with self.lock():
            left = self.folders(living=False)
            for folder in left:
                _remove(folder)
            return len(left)

    def folders(self, living: bool) -> list[Path]:
        """The folders of processes that live, or those that ended ones have left; to be asked under `lock`."""
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
    """`path`, which lies below `root`, if neither it nor a folder between the two is a link; `root` may be one.

    Raises:
        StoreError: it is reached through a link, whose target may be anybody's.
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
def held(path: Path, notice: float = 5, limit: float = 600) -> Iterator[None]:
    """Hold the lock on a file, made if need be. The system lets go of it when the process ends.

    A file, since network file systems lock no folders. Whoever waits longer than `notice` seconds says so, and for
    whom; after `limit` seconds it gives up.

    Raises:
        ReadOnlyError: the file cannot be written to.
        StoreError: the file is a link, or another process has not let go of it within `limit`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path} is a link, and no lock: remove it") from error
        if error.errno in READ_ONLY:
            raise ReadOnlyError(
                f"{path.parent} cannot be written to ({error.strerror}): what only reads works there; for all else "
                "permit it, mount it for writing, or copy it to a place of your own"
            ) from error
        raise
    try:
        _wait(path, descriptor, notice, limit)
        try:
            yield
        finally:
            # Closing alone would leave it with a child forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a file; not, where there is no such file. Asks without writing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _wait(path: Path, descriptor: int, notice: float, limit: float) -> None:
    """Take the lock on an open file. Asked again and again, since a call that waits could neither speak nor give up."""
    began, pause, said = time.monotonic(), 0.001, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited >= limit:
                raise StoreError(
                    f"{path} is locked by {_holder(descriptor)}, and was for the {limit:.0f} seconds of waiting: "
                    "end that process, or let it finish, and try again"
                ) from None
            if waited >= notice and not said:
                _log.warning("%s is locked by %s: waiting for it", path, _holder(descriptor))
                said = True
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _holder(descriptor: int) -> str:
    """The process that has locked an open file, as far as Linux tells."""
    number = str(os.fstat(descriptor).st_ino)
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, file, *_ = line.split()
            if kind == "FLOCK" and file.rpartition(":")[2] == number:
                words = re.findall(r"[!-~]+", Path(f"/proc/{pid}/cmdline").read_text())
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                stopped = f", which is stopped (`kill -CONT {pid}` lets it go on)" if state == "T" else ""
                return f"process {pid} ({' '.join(words)[:80]}){stopped}"
    return "another process"
