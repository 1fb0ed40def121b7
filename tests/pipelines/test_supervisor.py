"""Processes that end together, whatever they make of signals, and whoever of those that watch them is killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

from pipelines.ui.servers import check_port
from tests.conftest import Cli

STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.fork()
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
time.sleep(600)
"""
FRONT = f"""
import os, subprocess, sys
from pipelines.ui.servers import Supervisor
from pipelines.errors import CommandError
folder, brief = sys.argv[1:]
other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
try:
    with Supervisor(grace=0.5) as supervisor:
        for name in ("one", "two"):
            supervisor.start(name, "-c", {STUBBORN!r}, folder)
        supervisor.wait(lambda: len(os.listdir(folder)) == 4)
        print(supervisor._guard.pid, flush=True)
        if brief == "brief":
            supervisor.start("brief", "-c", "raise SystemExit(7)")
        supervisor.wait()
except CommandError as error:
    sys.exit(str(error))
finally:
    assert other.poll() is None, "ended what it has not started"
"""


class Start(Protocol):
    def __call__(self, what: str = "long", shell: str = 'exec "$@"') -> tuple[subprocess.Popen[str], int]: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a front with two children that heed no signal, nor do their own; returns it and the number of its guard.

    What a failed test leaves is ended: the front here, all others by its guard, or here if that fails too.
    """
    fronts = []

    def start(what: str = "long", shell: str = 'exec "$@"') -> tuple[subprocess.Popen[str], int]:
        command = ["sh", "-c", shell, "sh", sys.executable, "-c", FRONT, str(tmp_path), what]
        front = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        fronts.append(front)
        assert front.stdout
        return front, int(front.stdout.readline())

    yield start
    for front in fronts:
        front.kill()
        try:
            front.communicate(timeout=10)  # until nobody has its pipes open
        except subprocess.TimeoutExpired:
            for child in tmp_path.iterdir():
                with suppress(ProcessLookupError):
                    os.kill(int(child.name), signal.SIGKILL)


def _ended(front: subprocess.Popen[str]) -> str:
    """What it said on stderr. Its pipes end when the last process that has them open does: nobody is left."""
    _, said = front.communicate(timeout=60)
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_all(start: Start, number: signal.Signals) -> None:
    front, _ = start()
    front.send_signal(number)
    assert _ended(front) == ""
    assert front.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_were_inherited_as_ignored_are_heard(start: Start, number: signal.Signals) -> None:
    front, _ = start(shell='trap "" INT TERM; exec "$@"')
    front.send_signal(number)
    assert _ended(front) == ""
    assert front.returncode == 128 + number


def test_under_nohup_a_hangup_is_not_heard(start: Start) -> None:
    front, _ = start(shell='trap "" HUP; exec "$@"')
    front.send_signal(signal.SIGHUP)
    front.send_signal(signal.SIGTERM)
    assert _ended(front) == ""
    assert front.returncode == 128 + signal.SIGTERM


def test_killed_it_takes_all_along(start: Start) -> None:
    front, _ = start()
    front.kill()
    _ended(front)
    assert front.returncode == -signal.SIGKILL


def test_without_its_guard_it_does_not_go_on(start: Start) -> None:
    front, guard = start()
    os.kill(guard, signal.SIGKILL)
    assert _ended(front) == "the guard of `mmm4rec ui` has ended (by SIGKILL)\n"
    assert front.returncode == 1


def test_one_that_ends_by_itself_ends_all(start: Start) -> None:
    front, _ = start("brief")
    assert _ended(front) == "the brief of `mmm4rec ui` has ended (exit code 7)\n"
    assert front.returncode == 1


def test_a_taken_port_is_said_before_anything_starts(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = cli("ui", "--port", str(port), code=1).stderr
        assert f"port {port} of 127.0.0.1: in use" in said
        assert "mmm4rec ui --port N" in said
    assert not cli.data.exists()
    check_port(port)
