"""`mmm4rec ui` as an operator starts it: web server, daemon and code server, over GraphQL as the pages use it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.conftest import REPOSITORY

JOB = {"repositoryLocationName": "pipelines.definitions", "repositoryName": "__repository__"}
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } assetSelection { path } } } } }"
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""
TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
SLOTS = "{ instance { concurrencyLimits { concurrencyKey activeSlotCount pendingStepCount } } }"
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Run:
    """One run as the UI shows it."""

    id: str
    status: str
    tags: dict[str, str]
    assets: set[str]

    @property
    def partition(self) -> str | None:
        return self.tags.get("dagster/partition")


@dataclass
class Served:
    """A context manager; at its end nothing is left running."""

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: Path = REPOSITORY / ".venv/bin/mmm4rec"

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data.mkdir(parents=True, exist_ok=True)
        self.log = self.data.parent / f"{self.data.name}-{self.port}.log"
        # With the settings that a test chooses, and everything in a group of its own, so that it can end together.
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.command, "ui", "--port", str(self.port), "--data", self.data],
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.until(self._answers, "the web server answers", 300)
        return self

    def __exit__(self, *_: object) -> None:
        lived = self.process.poll() is None
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        left = self.processes()
        self.kill()
        if lived:
            assert (self.process.returncode, left) == (128 + signal.SIGINT, []), self.log.read_text()[-6000:]

    def kill(self) -> None:
        """As a power failure would: everything at once, runs too."""
        for pid in reversed(self.processes()):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def processes(self, said: str = "") -> list[int]:
        """Living processes of the session whose command line has `said`."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = int(status.read_text().rpartition(")")[2].split()[3])
                command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, IndexError):
                continue
            if session == self.process.pid and command and said in command:
                found.append(int(status.parent.name))
        return found

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
        """Wait until the condition holds, and return what it gave; a bound for what never comes."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain until {what}\n{self.log.read_text()[-6000:]}")
            time.sleep(0.3)
        return found

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        return [
            Run(
                run["runId"],
                run["status"],
                {tag["key"]: tag["value"] for tag in run["tags"]},
                {"/".join(key["path"]) for key in run["assetSelection"] or ()},
            )
            for run in reversed(self.ask(RUNS)["runsOrError"]["results"])
        ]

    def run(self, run_id: str) -> Run:
        """One run."""
        return next(run for run in self.runs() if run.id == run_id)

    def launch(self, partition: str, *assets: str) -> str:
        """Materialise assets of a domain as the page does; the run's id."""
        answer = self.ask(
            LAUNCH,
            params={
                "selector": {
                    **JOB,
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": asset.split("/")} for asset in assets],
                },
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
            },
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def ended(self, run_id: str) -> str:
        """Wait for the end of a run; its status."""
        self.until(lambda: self.run(run_id).status in ENDED, f"run {run_id} ends")
        return self.run(run_id).status

    def ticks(self, sensor: str) -> int:
        """How often a sensor has begun to look."""
        return self.log.read_text().count(f"Checking for new runs for sensor: {sensor}")

    def slots(self) -> int:
        """How many pool slots are taken or waited for."""
        limits = self.ask(SLOTS)["instance"]["concurrencyLimits"]
        return sum(limit["activeSlotCount"] + limit["pendingStepCount"] for limit in limits)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=5):
                return True
        except OSError:
            return False
