"""`mmm4rec ui`: Dagster's code server, web server and daemon, which start and end together.

Each server leads its own process group. Everything it starts stays in that group: runs, their steps, reloaded code. To
end the servers, this process sends SIGTERM to each group, and kills what still runs after a grace period. A separate
guard process does the same if this process is killed.

    mmm4rec ui ──pipe──▷ guard           receives the number of each started process group, one per line
        ├── code server ── runs ── steps
        ├── web server
        └── daemon
"""

import errno
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, Self, overload

import yaml

from mmm4rec.printable import visible
from mmm4rec.processes import ENDING, answered_signals
from pipelines.errors import CommandError

DATA_FOLDER: Final = "/data_folder"
"""The path at which the web server says which data folder it is for."""
_LONGEST_PATH: Final = 4096
GRACE: Final = 8.0
"""Seconds between SIGTERM and SIGKILL; `docker stop` waits ten seconds in all."""


def replace_this_process(port: int, hosts: Sequence[str]) -> NoReturn:
    """Run `serve` in place of this process. This process has imported Dagster, which it no longer needs."""
    # Change to this package's own parent folder, so that Python imports no `pipelines` from the user's current folder.
    os.chdir(Path(__file__).parents[2])
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.ui.servers", "serve", str(port), *hosts])  # noqa: S606 - no shell


def check_port(port: int) -> None:
    """Check that the port is free.

    Raises:
        CommandError: another process listens on it, or this process may not use it.
    """
    with socket.socket() as trial:
        # The web server does the same: old connections of an ended server do not block the port.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            cause = _who_listens(port) if error.errno == errno.EADDRINUSE else error.strerror
            raise CommandError(
                f"port {port} of 127.0.0.1: {cause}; choose another with `mmm4rec ui --port N`"
            ) from None


def _who_listens(port: int) -> str:
    """Whether a web server of `mmm4rec ui` listens there, and over which data folder."""
    with suppress(OSError, http.client.HTTPException, ValueError):
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        asked.request("GET", DATA_FOLDER)
        if (answer := asked.getresponse()).status == 200 and answer.headers.get_content_type() == "text/plain":
            return f"in use by `mmm4rec ui` over {visible(answer.read(_LONGEST_PATH).decode())}"
    return "in use by another program"


def serve(port: int, hosts: Sequence[str]) -> NoReturn:
    """Serve until a signal comes. `hosts` are accepted host names besides those of loopback.

    Raises:
        SystemExit: a signal came; the exit code is 128 + the signal's number.
        CommandError: one of the servers has ended by itself; the others are ended, too.
    """
    # Dagster reports errors in domains.yaml as a message, not as a traceback of its own frames from each server.
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"
    with tempfile.TemporaryDirectory(prefix="mmm4rec-ui-") as folder, Supervisor() as supervisor:
        code, workspace = Path(folder, "code"), Path(folder, "workspace.yaml")
        location = {"location_name": "pipelines.definitions", "socket": str(code)}
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
        # Steps on other machines start with this Python, too, and not with any `dagster` that is on their PATH.
        module = ["-m", "pipelines.definitions", "--use-python-environment-entry-point", "--log-level", "warning"]
        supervisor.start("code server", "-m", "dagster", "code-server", "start", *module, "--socket", str(code))
        supervisor.wait(lambda: _listens(socket.AF_UNIX, str(code)))
        supervisor.start("web server", "-m", "pipelines.ui.webserver", str(port), str(workspace), *hosts)
        supervisor.start("daemon", "-m", "dagster._daemon", "run", "--workspace", str(workspace))
        supervisor.wait(lambda: _listens(socket.AF_INET, ("127.0.0.1", port)))
        print(f"UI at http://127.0.0.1:{port}, ends with Ctrl-C", flush=True)
        supervisor.wait()


def _listens(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as trial:
        return trial.connect_ex(address) == 0


class Supervisor:
    """A context manager that starts processes. On exit, it ends them and everything they have started.

    Use it in the main thread, where `wait` answers signals.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        # Each signal writes a byte: no signal is lost, and none interrupts a call.
        self._signals, writing = socket.socketpair()
        writing.setblocking(False)
        self._writing = writing
        signal.set_wakeup_fd(writing.fileno())
        answered = (*answered_signals(), signal.SIGCHLD)
        self._before = {number: signal.signal(number, _do_nothing) for number in answered}
        guard = [sys.executable, "-m", "pipelines.ui.servers", "guard", str(self._grace)]
        reading, self._pipe = os.pipe()
        self._guard = subprocess.Popen(guard, stdin=reading, process_group=0)
        os.close(reading)
        return self

    def __exit__(self, *_: object) -> None:
        end([process.pid for process in self._processes.values()], self._grace)
        # Kill the guard after the groups have ended and before the pipe closes. Otherwise it could signal group numbers
        # that the system has given to other processes since.
        self._guard.kill()
        self._guard.wait()
        os.close(self._pipe)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._signals.close()
        self._writing.close()

    def start(self, name: str, *arguments: str) -> None:
        """Start Python with these arguments, as the process `name`."""
        process = subprocess.Popen([sys.executable, *arguments], process_group=0)
        self._processes[name] = process
        with suppress(BrokenPipeError):  # the guard has ended; `wait` reports that
            os.write(self._pipe, b"%d\n" % process.pid)

    @overload
    def wait(self) -> NoReturn: ...

    @overload
    def wait(self, ready: Callable[[], bool]) -> None: ...

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until `ready` returns True; it is called ten times per second. Without `ready`, wait forever.

        Raises:
            SystemExit: a signal of `ENDING` came; the exit code is 128 + its number.
            CommandError: a process has ended by itself.
        """
        while ready is None or not ready():
            arrived, _, _ = select.select([self._signals], [], [], None if ready is None else 0.1)
            for number in self._signals.recv(64) if arrived else b"":
                if number in ENDING:
                    sys.exit(128 + number)
            for name, process in {**self._processes, "guard": self._guard}.items():
                if process.poll() is not None:
                    raise CommandError(f"the {name} of `mmm4rec ui` has ended ({_describe_exit(process.returncode)})")


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def _do_nothing(*_: Any) -> None:
    """Do nothing. With a handler, a signal writes a byte; child processes start with the default handler again."""


def end(groups: Iterable[int], grace: float) -> None:
    """Ask the processes of these groups to end. After `grace` seconds, kill those that still run."""
    left = list(groups)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for group in left:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        until = time.monotonic() + patience
        while (left := [group for group in left if _lives(group)]) and time.monotonic() < until:
            time.sleep(0.05)


def _lives(group: int) -> bool:
    """Whether a group still has a process. Ended children of this process are reaped first."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter if only zombies are left
        return False
    return True


def guard(grace: float) -> None:
    """Read group numbers from standard input. At its end (the writer is dead), end these process groups."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    end([int(line) for line in sys.stdin], grace)


def main() -> None:
    """Run `serve PORT [HOST ...]` or `guard SECONDS`."""
    what, number, *hosts = sys.argv[1:]
    if what == "guard":
        guard(float(number))
        return
    try:
        serve(int(number), hosts)
    except CommandError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
