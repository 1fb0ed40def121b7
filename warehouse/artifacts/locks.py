"""Locks on files. The system releases them when a process ends in any way."""

import errno
import fcntl
import logging
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from warehouse.artifacts.errors import READ_ONLY, ReadOnlyError, StoreError

__all__ = ["held", "is_held", "is_open"]

_log = logging.getLogger("mmm4rec")


@contextmanager
def held(path: Path, notice: float = 5, limit: float = 600) -> Iterator[None]:
    """Hold the lock on a file, which is created if it is missing. The system releases it when the process ends.

    It is a lock on a file, because network file systems do not lock folders. A process that waits longer than `notice`
    seconds logs this and the holder of the lock. After `limit` seconds (inf: never) it gives up.

    Raises:
        ReadOnlyError: the file is not writable.
        StoreError: the file is a link, or another process has not released the lock within `limit`.
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
    """Whether a process holds the lock on a file (false if there is no such file). This check does not write."""
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


def is_open(file: Path) -> bool:
    """Whether a process reads or writes a DuckDB file: DuckDB holds a POSIX lock on it, shared or exclusive.

    To be asked by a process that has not opened it itself: locks are a process's own, and closing a file drops them.
    """
    # Who may write would be locked out? To ask that, unlike to lock, needs no right to write, which published files
    # give to nobody. struct flock of Linux: type, whence, start, length (0: to the end), process.
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with file.open("rb") as opened:
            kind, *_ = struct.unpack("hhqqi", fcntl.fcntl(opened, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be told, and then it stays
    return bool(kind != fcntl.F_UNLCK)


def _wait(path: Path, descriptor: int, notice: float, limit: float) -> None:
    """Take the lock on an open file. Asked again and again, since a call that waits could neither speak nor give up."""
    began, pause, has_said = time.monotonic(), 0.001, False
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
            if waited >= notice and not has_said:
                _log.warning("%s is locked by %s: waiting for it", path, _holder(descriptor))
                has_said = True
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
