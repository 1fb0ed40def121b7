"""Ways to disturb work: processes that die at a chosen call or at any moment, and disks without room."""

import ctypes
import io
import itertools
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

CALLS = ("rename", "replace", "link", "mkdir", "rmdir", "unlink")
"""What changes folders; with what opens files for writing, these are the moments between which nothing changes but the
contents of open files."""

# Forked from a server that has imported everything: a process costs milliseconds, and holds no threads of the tests.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.warehouse.work"])


def start(function: Callable[..., Any], *arguments: Any, report: Path) -> BaseProcess:
    """Call it in a process of its own; what it raises is added to the file `report`."""
    process = processes.Process(target=_report, args=(function, arguments, report), daemon=True)
    process.start()
    return process


def _report(function: Callable[..., Any], arguments: tuple[Any, ...], report: Path) -> None:
    try:
        function(*arguments)
    except BaseException:
        with report.open("a") as file:
            file.write(traceback.format_exc())
        raise


def join(*started: BaseProcess, report: Path, timeout: float = 300) -> None:
    """Wait for the end of all; what went wrong in one is an error here."""
    for process in started:
        process.join(timeout)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert not report.exists(), report.read_text()
    assert codes == [0] * len(started)


def dying(number: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call it, and be killed right before its n-th of `CALLS`."""
    counted = itertools.count(1)

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if next(counted) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call

    real_open, real_os_open = io.open, os.open
    doomed_open, opened, doomed_os_open = deadly(real_open), deadly(lambda file: file), deadly(real_os_open)

    def open_(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        # Counted before and after: a file that is there and empty is a moment of its own.
        if "r" in mode:
            return real_open(file, mode, *args, **named)
        return opened(doomed_open(file, mode, *args, **named))

    def os_open(path: Any, flags: int, *args: Any, **named: Any) -> int:
        return (doomed_os_open if flags & os.O_CREAT else real_os_open)(path, flags, *args, **named)

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    io.open, os.open = open_, os_open
    function(*arguments)


def killed_at(number: int, function: Callable[..., Any], *arguments: Any, report: Path) -> bool:
    """Whether the process lived to die before its n-th of `CALLS`; False: it has come to its end before."""
    process = start(dying, number, function, *arguments, report=report)
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), report.read_text() if report.exists() else process.exitcode
    return process.exitcode != 0


def killed_after(seconds: float, function: Callable[..., Any], *arguments: Any, report: Path) -> bool:
    """Whether `kill -9` met the process alive, that time after its work began."""
    ready, sender = processes.Pipe(duplex=False)
    process = start(_announce, sender, function, *arguments, report=report)
    sender.close()
    assert ready.poll(120)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), report.read_text() if report.exists() else process.exitcode
    return process.exitcode != 0


def duration(function: Callable[..., Any], *arguments: Any, report: Path) -> float:
    """Seconds that an undisturbed process works."""
    ready, sender = processes.Pipe(duplex=False)
    process = start(_announce, sender, function, *arguments, report=report)
    sender.close()
    assert ready.poll(120)
    begin = time.perf_counter()
    join(process, report=report)
    return time.perf_counter() - begin


def _announce(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    sender.send_bytes(b"ready")
    function(*arguments)


def moments(count: int, within: float, seed: int = 0) -> list[float]:
    """One random moment of each of `count` equal parts of a time, in random order."""
    chance = random.Random(seed)
    found = [(part + chance.random()) * within / count for part in range(count)]
    chance.shuffle(found)
    return found


class Disk:
    """A small file system at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, room: int) -> None:
        """Let no more than that many bytes be free."""
        self._ballast.unlink(missing_ok=True)
        found = os.statvfs(self.folder)
        surplus = found.f_bavail * found.f_frsize - room
        if surplus > 0:
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, surplus)

    def free(self) -> None:
        """Let all be free that nobody uses."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """A file system in memory, mounted at `folder`; skips where that is not permitted."""
    if sys.platform != "linux":
        pytest.skip("only Linux has tmpfs")
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(folder)
    if libc.mount(b"tmpfs", place, b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip(f"a file system cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield Disk(folder)
    finally:
        assert libc.umount2(place, 2) == 0  # MNT_DETACH: also while a library holds a file open


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
