"""A Ray cluster of several nodes of one core each on this machine: processes of `ray start`, as an operator runs it."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Ray's library reads these once, when it is imported.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'mmm4rec[ray]'")

_MARK = "MMM4REC_TEST_NODE"
_MEMORY = 100 * 2**20
"""Bytes of a node's object store."""


@dataclass
class Cluster:
    """A running cluster. `environment` is what a process needs to join it."""

    address: str
    folder: Path
    environment: dict[str, str]
    hidden: Path | None = None
    """A folder in whose place each node sees an empty one of its own."""
    memory: int = _MEMORY
    """Bytes of all object stores."""
    nodes: list[str] = field(default_factory=list)
    """The mark that all processes of a node have in their environment."""

    def start(self, *options: str, **environment: str) -> str:
        """Start one more node, and return its mark."""
        mark = f"{self.folder.name}-{len(self.nodes)}"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--num-cpus", "1"),
            *("--node-ip-address", "127.0.0.1", "--object-store-memory", str(_MEMORY), "--disable-usage-stats"),
            *("--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", str(free_port())),
        ]
        if self.hidden:
            alone = f"mount -t tmpfs none '{self.hidden}' && exec \"$@\""
            command = ["unshare", "--mount", "sh", "-c", alone, "sh", *command]
        self.nodes.append(mark)
        for _ in range(3):  # on a busy machine, Ray gives up a node that takes long to start
            done = subprocess.run(
                command,
                env={**os.environ, **self.environment, **environment, _MARK: mark},
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                return mark
            self.kill(mark)
        raise AssertionError(done.stdout + done.stderr)

    def admit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process join the cluster."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def add(self, **environment: str) -> str:
        """A node that joins the head."""
        return self.start("--address", self.address, **environment)

    def kill(self, node: str) -> int:
        """kill -9 for every process of a node; returns how many there were."""
        killed = 0
        while found := processes(node):
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed = killed or len(found)
        return killed


@contextmanager
def running(nodes: int = 2, hidden: Path | None = None, **environment: str) -> Iterator[Cluster]:
    """A cluster with so many nodes of one core each, which asks for a token. With `hidden`, it skips the test where
    this process may not mount a folder."""
    if hidden and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a node can have a disk of its own only where this process may mount one (unshare)")
    # Ray puts sockets below this folder, and their paths have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    cluster = Cluster(
        f"127.0.0.1:{free_port()}",
        folder,
        {
            "RAY_TMPDIR": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        hidden,
        nodes * _MEMORY,
    )
    try:
        port = cluster.address.partition(":")[2]
        cluster.start("--head", "--port", port, "--include-dashboard", "false", "--temp-dir", str(folder))
        for _ in range(nodes - 1):
            cluster.add()
        yield cluster
    finally:
        for node in cluster.nodes:
            cluster.kill(node)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Two nodes of one core each."""
    with running() as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The same, and this process may join it."""
    nodes.admit(monkeypatch)
    return nodes


def processes(node: str) -> list[int]:
    """The processes of a node that are not dead."""
    wanted, found = f"{_MARK}={node}\0".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes() and "\nState:\tZ" not in (entry / "status").read_text():
                found.append(int(entry.name))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
