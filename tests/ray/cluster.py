"""A Ray cluster on loopback as docs/operations.md starts it: a head and a second node, each with one core."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

TOKEN = "a-token-that-both-sides-know-0123456789"
MARK = "MMM4REC_TEST_NODE"
"""A variable that every process of a node inherits: by it, a test finds and ends its own processes and no others."""
MEMORY = str(80 << 20)
"""Bytes of a node's object store, which our steps do not use."""
HOSTS = {"head": "127.0.0.2", "second": "127.0.0.3"}
"""Loopback, too. Ray replaces 127.0.0.1 by an address that other machines reach."""


def settings_of_nodes() -> dict[str, str]:
    """The variables of deploy/ray/ray.env."""
    lines = (REPOSITORY / "deploy/ray/ray.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def free_ports(count: int) -> list[str]:
    """Ports on which nobody listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


def until(condition: Callable[[], Any], what: str, seconds: float = 400) -> Any:
    """Wait until the condition holds, and return what it gave; a bound for what never comes."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.2)
    return found


@dataclass
class Cluster:
    """Two nodes. `environment` is what each node has besides deploy/ray/ray.env, such as the keys of a bucket."""

    environment: Mapping[str, str]
    # Ray makes sockets below it, whose paths may have 107 bytes.
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp")))

    def __post_init__(self) -> None:
        self.port, self.dashboard, self.clients, *self.metrics = free_ports(5)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.sessions: set[tuple[str, int]] = set()

    @property
    def client(self) -> dict[str, str]:
        """What a process needs that uses the cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

    def start(self) -> None:
        """Start both nodes and wait for them."""
        self.start_head()
        self.start_second()

    def start_head(self) -> None:
        """`ray start --head`; the same ports every time."""
        self._start(
            "head",
            *("--head", f"--port={self.port}", f"--ray-client-server-port={self.clients}", f"--temp-dir={self.folder}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"),
        )

    def start_second(self) -> None:
        """A node that has a GPU by its own word: Ray only counts them."""
        self._start("second", f"--address={HOSTS['head']}:{self.port}", "--num-gpus=1")

    def kill(self, node: str) -> None:
        """End the processes of a node as a power failure would; steps that it runs, too."""
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(node), f"the processes of {node} are gone")

    def end(self) -> None:
        """End everything."""
        for node in ("second", "head"):
            self.kill(node)
        for process in self.started.values():
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self, node: str = "", said: str = "") -> list[int]:
        """Living processes of a node, or of both, whose command line has `said`."""
        marked = f"{MARK}={self.folder}/{node}".encode()
        # Processes that Ray gives a title lose what shows their variables, but stay in the session of `ray start`.
        sessions = {str(pid) for name, pid in self.sessions if name.startswith(node)}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                session = (place / "stat").read_text().rpartition(")")[2].split()[3]
                variables = (place / "environ").read_bytes().split(b"\0")
                if session in sessions or any(one.startswith(marked) for one in variables):
                    command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command and said in command:
                        found.append(int(place.name))
            except OSError:
                continue
        return found

    def steps(self) -> list[int]:
        """The Python processes of steps (each is started by a shell)."""
        return [pid for pid in self.processes(said="-m dagster api execute_step") if not _is_shell(pid)]

    def ask(self, path: str) -> Any:
        """An answer of the dashboard, by plain HTTP."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def nodes(self) -> list[Any]:
        """The living nodes; none if the head does not answer."""
        with suppress(OSError, ValueError):
            listed = self.ask("/api/v0/nodes")["data"]["result"]["result"]
            return [node for node in listed if node["state"] == "ALIVE"]
        return []

    def jobs(self, run_id: str = "") -> list[Any]:
        """The jobs that steps were, of one run or of all."""
        jobs: list[Any] = self.ask("/api/jobs/")
        return [job for job in jobs if run_id in (job["metadata"] or {}).get("dagster/run-id", "")]

    def actors(self) -> list[Any]:
        """All actors that Ray remembers, with what they asked for."""
        listed: list[Any] = self.ask("/api/v0/actors?detail=1&limit=1000")["data"]["result"]["result"]
        return listed

    def left(self) -> list[str]:
        """What still runs of steps: unfinished jobs, actors, processes."""
        return [
            *(f"job {job['submission_id']}" for job in self.jobs() if job["status"] in ("PENDING", "RUNNING")),
            *(f"actor {actor['class_name']}" for actor in self.actors() if actor["state"] != "DEAD"),
            *(f"process {pid}" for pid in self.steps()),
        ]

    def _start(self, node: str, *arguments: str) -> None:
        """Start a node and wait until the head knows it.

        Where `ray start` ends before that, it is started again, as systemd would do.
        """
        self._call(node, *arguments)

        def up() -> bool:
            if self.started[node].poll() is not None:
                self.kill(node)
                self._call(node, *arguments)
            return any(known["node_ip"] == HOSTS[node] for known in self.nodes())

        try:
            until(up, f"the node {node} is up", 1200)
        except AssertionError as error:
            raise AssertionError((self.folder / f"{node}.log").read_text()[-4000:]) from error

    def _call(self, node: str, *arguments: str) -> None:
        names = ["node-manager", "object-manager", "dashboard-agent-listen", "dashboard-agent-grpc"]
        names += ["metrics-export", "runtime-env-agent"]
        ports = [f"--{name}-port={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [f"--node-ip-address={HOSTS[node]}", "--num-cpus=1", f"--object-store-memory={MEMORY}"]
        environment = {**os.environ, **settings_of_nodes(), **self.client, **self.environment}
        environment |= {MARK: f"{self.folder}/{node}", "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "600"}
        environment |= dict(zip(("DASHBOARD_METRIC_PORT", "AUTOSCALER_METRIC_PORT"), self.metrics, strict=True))
        with (self.folder / f"{node}.log").open("ab") as log:
            self.started[node] = subprocess.Popen(
                [*command, "--include-log-monitor=false", *ports, *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.add((node, self.started[node].pid))


def _is_shell(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in ("sh", "bash", "dash")
    except OSError:
        return True


def worker_of(step: int) -> int:
    """The Ray worker that started a step, perhaps through a shell."""
    while not Path(f"/proc/{step}/comm").read_text().startswith("ray::"):
        step = int(Path(f"/proc/{step}/stat").read_text().rpartition(")")[2].split()[1])
    return step


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[Cluster]:
    """A cluster that ends with the context."""
    cluster = Cluster(environment)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
