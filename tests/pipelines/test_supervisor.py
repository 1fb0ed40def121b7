"""Processes that end together, whatever they make of signals, and whoever of those that watch them is killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

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


def _start(folder: Path, what: str = "long", shell: str = 'exec "$@"') -> tuple[subprocess.Popen[str], int]:
    """A front with two children that heed no signal, nor do their own; and the number of its guard."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", FRONT, str(folder), what]
    front = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert front.stdout
    return front, int(front.stdout.readline())


def _ended(front: subprocess.Popen[str]) -> str:
    """What it said on stderr. Its pipes end when the last process that has them open does: nobody is left."""
    _, said = front.communicate(timeout=60)
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    front, _ = _start(tmp_path)
    front.send_signal(number)
    assert _ended(front) == ""
    assert front.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_were_inherited_as_ignored_are_heard(tmp_path: Path, number: signal.Signals) -> None:
    front, _ = _start(tmp_path, shell='trap "" INT TERM; exec "$@"')
    front.send_signal(number)
    assert _ended(front) == ""
    assert front.returncode == 128 + number


def test_under_nohup_a_hangup_is_not_heard(tmp_path: Path) -> None:
    front, _ = _start(tmp_path, shell='trap "" HUP; exec "$@"')
    front.send_signal(signal.SIGHUP)
    front.send_signal(signal.SIGTERM)
    assert _ended(front) == ""
    assert front.returncode == 128 + signal.SIGTERM


def test_killed_it_takes_all_along(tmp_path: Path) -> None:
    front, _ = _start(tmp_path)
    front.kill()
    _ended(front)
    assert front.returncode == -signal.SIGKILL


def test_without_its_guard_it_does_not_go_on(tmp_path: Path) -> None:
    front, guard = _start(tmp_path)
    os.kill(guard, signal.SIGKILL)
    assert _ended(front) == "the guard of `mmm4rec ui` has ended (by SIGKILL)\n"
    assert front.returncode == 1


def test_one_that_ends_by_itself_ends_all(tmp_path: Path) -> None:
    front, _ = _start(tmp_path, "brief")
    assert _ended(front) == "the brief of `mmm4rec ui` has ended (exit code 7)\n"
    assert front.returncode == 1


def test_a_taken_port_is_said_before_anything_starts(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = cli("ui", "--port", str(port), code=1).stderr
        assert f"port {port} of 127.0.0.1: taken" in said
        assert "mmm4rec ui --port N" in said
    assert not cli.data.exists()
    check_port(port)
