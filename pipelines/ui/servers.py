"""`mmm4rec ui`: Dagster's code server, web server and daemon, which start and end together.

Each leads a process group of its own, in which whatever it starts remains: runs, their steps, reloaded code. Ending
them is asking each group (SIGTERM) and killing what is left of it after a grace. A guard, a process that does nothing
else, does the same when this process is killed and cannot do it any more.

    mmm4rec ui ──pipe──▷ guard           each process group that was started, one number a line
        ├── code server ── runs ── steps
        ├── web server
        └── daemon
"""

import errno
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

from mmm4rec.processes import ENDING, answered_signals
from pipelines.errors import CommandError

GRACE: Final = 8.0
"""Seconds between asking and killing; `docker stop` waits for ten in all."""


def replace_this_process(port: int, hosts: Sequence[str]) -> NoReturn:
    """Be `serve` in place of this process, which has imported Dagster and needs it no more."""
    # Where this very package lies, so that no folder that the user happens to stand in offers another one.
    os.chdir(Path(__file__).parents[2])
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.ui.servers", "serve", str(port), *hosts])  # noqa: S606 - no shell


def check_port(port: int) -> None:
    """Whether the port can be had.

    Raises:
        CommandError: another process listens there, or it needs rights that this one has not.
    """
    with socket.socket() as trial:
        # As the web server does: connections of one that has ended do not hold the port.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            cause = "taken, perhaps by another `mmm4rec ui`" if error.errno == errno.EADDRINUSE else error.strerror
            raise CommandError(f"port {port} of 127.0.0.1: {cause}; `mmm4rec ui --port N` takes another") from None


def serve(port: int, hosts: Sequence[str]) -> NoReturn:
    """Serve until a signal comes; `hosts` are names beside those of loopback.

    Raises:
        SystemExit: the signal came; its code is 128 + the signal's number.
        CommandError: one of the servers has ended by itself; the others have been ended.
    """
    # Errors of domains.yaml in words, not as a traceback of Dagster's own frames for each server.
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"
    with tempfile.TemporaryDirectory(prefix="mmm4rec-ui-") as folder, Supervisor() as supervisor:
        code, workspace = Path(folder, "code"), Path(folder, "workspace.yaml")
        location = {"location_name": "pipelines.definitions", "socket": str(code)}
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
        module = ["-m", "pipelines.definitions", "--log-level", "warning"]
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
    """A context manager that starts processes and ends them with all that they have started, however this one ends.

    For the main thread, in which `wait` answers signals.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        # Each signal becomes a byte: none is lost, none interrupts anything.
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
        # Only now, and before the pipe: a guard that went on could meet numbers that others have got.
        self._guard.kill()
        self._guard.wait()
        os.close(self._pipe)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._signals.close()
        self._writing.close()

    def start(self, name: str, *arguments: str) -> None:
        """Start Python with these arguments."""
        process = subprocess.Popen([sys.executable, *arguments], process_group=0)
        self._processes[name] = process
        with suppress(BrokenPipeError):  # `wait` says that the guard is gone
            os.write(self._pipe, b"%d\n" % process.pid)

    @overload
    def wait(self) -> NoReturn: ...

    @overload
    def wait(self, ready: Callable[[], bool]) -> None: ...

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until `ready`, which is asked ten times a second, or without end.

        Raises:
            SystemExit: a signal came that ends; the code is 128 + its number.
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
    """A handler: with one, a signal becomes a byte, and is on its default again in processes that are started."""


def end(groups: Iterable[int], grace: float) -> None:
    """Ask the processes of these groups to end, and kill those that have not after `grace` seconds."""
    left = list(groups)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for group in left:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        until = time.monotonic() + patience
        while (left := [group for group in left if _lives(group)]) and time.monotonic() < until:
            time.sleep(0.05)


def _lives(group: int) -> bool:
    """Whether a group has a process; of those that are our own children, the ended ones are collected first."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, where only zombies are left
        return False
    return True


def guard(grace: float) -> None:
    """End the process groups that standard input names, once it ends: whoever wrote to it is dead."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    end([int(line) for line in sys.stdin], grace)


def main() -> None:
    """`serve PORT [HOST ...]`, or `guard SECONDS`."""
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
