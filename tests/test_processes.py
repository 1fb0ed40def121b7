"""Processes end when they are asked to, or are killed; and whoever asks ends exactly those that it means.

The two rooms have the same functions, since they do not import each other.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.signals import aside
from tests.conftest import REPOSITORY
from tests.forked import gone

# Forked from a process that has imported next to nothing.
forkserver = multiprocessing.get_context("forkserver")


@pytest.fixture(params=["mmm4rec.processes", "warehouse.artifacts.processes"])
def room(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(request.param)


def _wait(stubborn: bool, ready: "multiprocessing.synchronize.Event") -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
    ready.set()
    time.sleep(600)


def _started(stubborn: bool) -> BaseProcess:
    ready = forkserver.Event()
    process = forkserver.Process(target=_wait, args=(stubborn, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    return process


def test_those_meant_are_ended_and_no_others(room: ModuleType) -> None:
    willing, stubborn, bystander = _started(False), _started(True), _started(False)
    room.end([willing, stubborn], grace=0.2)
    assert (willing.exitcode, stubborn.exitcode) == (-signal.SIGTERM, -signal.SIGKILL)
    assert bystander.is_alive()
    room.end([willing, stubborn, bystander], grace=60)
    assert bystander.exitcode == -signal.SIGTERM


IMPORTS = """
import signal, sys
from importlib import import_module
processes = import_module(sys.argv[1])
processes.end_on_signals()
sys.path.insert(0, sys.argv[2])
import slow
"""
SLOW = """
import time
print("ready", flush=True)
try:
    time.sleep(600)
except BaseException:
    pass
print("swallowed")
"""
CHILD = """
import multiprocessing, signal, sys, time
from importlib import import_module

def stubborn(ready):
    signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
    ready.set()
    while True:  # a signal between the look for signals and a long sleep would be heard at its end
        time.sleep(0.05)

if __name__ == "__main__":
    processes = import_module(sys.argv[1])
    processes.GRACE = float(sys.argv[2])
    processes.end_on_signals()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=stubborn, args=(ready,))
    child.start()
    ready.wait()
    print(child.pid, flush=True)
    child.join()
"""


@contextmanager
def _script(text: str, *arguments: str, ignored: tuple[signal.Signals, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process of Python that ignores those signals as it starts."""
    process = subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(each, signal.SIG_IGN) for each in ignored],
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_an_import_ends_the_process(
    room: ModuleType, tmp_path: Path, number: signal.Signals
) -> None:
    """Also where SIGINT and SIGTERM were ignored by whoever started it."""
    (tmp_path / "slow.py").write_text(SLOW)
    ignored = (signal.SIGINT, signal.SIGTERM)
    with _script(IMPORTS, room.__name__, str(tmp_path), ignored=ignored) as process:
        assert _line(process) == "ready"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")


def test_an_ignored_hang_up_stays_ignored(room: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("600", "0.5"))
    with _script(IMPORTS, room.__name__, str(tmp_path), ignored=(signal.SIGHUP,)) as process:
        assert _line(process) == "ready"
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "swallowed\n")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_ends_the_children_too_and_a_second_one_waits_for_nothing(room: ModuleType) -> None:
    with _script(CHILD, room.__name__, "0.2") as process:
        child = _line(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert gone(int(child))
    with _script(CHILD, room.__name__, "600") as process:
        child = _line(process)
        process.send_signal(signal.SIGTERM)
        assert _line(process) == "asked"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        os.kill(int(child), signal.SIGKILL)


ASIDE = """
import signal, threading, time
from pipelines import signals

def work():
    assert threading.current_thread() is not threading.main_thread()
    print("ready", flush=True)
    time.sleep(600)

signals.end_commands()
try:
    signals.aside(work)
except signals.Interrupted as error:
    print(error, flush=True)
    signals.leave(error.number)
"""


def test_work_that_is_done_aside_does_not_hear_of_signals() -> None:
    with _script(ASIDE, ignored=(signal.SIGINT,)) as process:
        assert _line(process) == "ready"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "SIGINT\n", "")


def test_what_work_aside_returns_or_raises_arrives() -> None:
    assert aside(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 / 0)
