"""Every step on a Ray cluster of two nodes, artifacts in a bucket: the same versions as without, whatever is killed."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.data_folder.folder import STORE_VARIABLE, DataFolder
from pipelines.running.runs import open_instance
from tests import forked
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.served import TERMINATE, Served
from tests.pipelines.small import write_shop
from tests.ray.cluster import Cluster, free_ports, running, until, worker_of
from tests.ray.conftest import COMMAND, versions
from tests.warehouse.bucket import Server
from tests.warehouse.stores import Place, bucket, server

pytest.importorskip("dagster_ray", reason="dagster-ray is not installed; `make ray` runs these tests")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

__all__ = ["bucket", "server"]

TWO = ("run", "--only", "raw/ratings", "--only", "raw/metadata")
"""Two steps, which have nothing to wait for: each node gets one."""
SLOW = {"kind": "slow", "seconds": 20, "after": True, "match": "^PUT ", "left": 1000}
"""Whatever a step publishes takes long, so that it is always disturbed in the middle."""


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator[Cluster]:
    """Two nodes, which have the keys of the bucket."""
    with running(server.environment) as cluster:
        yield cluster


@pytest.fixture
def on_ray(cluster: Cluster, bucket: Place, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, for this process and what it starts; artifacts are in a new bucket."""
    for name, value in {**cluster.client, STORE_VARIABLE: bucket.address, "DAGSTER_HOME": str(REPOSITORY)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MMM4REC_DAGSTER", str(bucket.folder / "data" / ".dagster"))
    if len(cluster.nodes()) < 2:  # the test before this one has failed
        cluster.kill("second")
        cluster.kill("head")
        cluster.start()
    return cluster


@pytest.fixture
def shop(on_ray: Cluster, tmp_path: Path) -> Cli:
    """A shop whose steps run on the cluster."""
    write_shop(tmp_path / "data", "Toys", ray={"address": on_ray.address})
    return Cli(tmp_path / "data")


def first(expected: dict[str, str]) -> dict[str, str]:
    """Of all versions, those that `TWO` builds."""
    return {ref: version for ref, version in expected.items() if ref.startswith("raw/")}


def messages(data: Path, kind: dg.DagsterEventType) -> list[str]:
    """What all runs have said by events of this kind, with the errors in these."""
    with open_instance(data / ".dagster") as instance:
        entries = [one for run in instance.get_runs() for one in instance.all_logs(run.run_id, of_type=kind)]
    details = [entry.get_dagster_event().event_specific_data for entry in entries]
    return [f"{one.message} {getattr(detail, 'error', None)}" for one, detail in zip(entries, details, strict=True)]


@dataclass
class Going:
    """`mmm4rec run` at work, with a step on each node that does not end."""

    process: BaseProcess
    out: Path
    server: Server

    def ended(self) -> int | None:
        """Let the steps end, and wait for the run; its exit code."""
        self.server.tell(faults=[])
        self.process.join(900)
        return self.process.exitcode


@contextmanager
def going(shop: Cli, cluster: Cluster, server: Server) -> Iterator[Going]:
    """A run, until both nodes have a step that is publishing."""
    before = {*cluster.steps()}
    server.tell(faults=[SLOW], forget=True)
    out = shop.data.parent / "said"
    process = forked.start(TWO, {**os.environ, "MMM4REC_DATA": str(shop.data), "COLUMNS": "200"}, out, out)

    def busy() -> bool:
        assert process.is_alive(), out.read_text()
        asked = sum(line.startswith("PUT ") for line in server.tell()["seen"])
        return asked >= 2 and len({*cluster.steps()} - before) == 2

    try:
        until(busy, "both nodes have a step")
        yield Going(process, out, server)
    finally:
        server.tell(faults=[])
        process.kill()
        process.join()


def test_a_run_makes_the_same_versions(shop: Cli, on_ray: Cluster, expected: dict[str, str]) -> None:
    said = shop(*COMMAND).stdout
    assert "built 5 artifacts of 1 domain" in said
    assert versions(shop.data) == expected
    assert len(on_ray.jobs()) >= 5  # a check that blocks nothing is a job, too
    assert "nothing to do" in shop(*COMMAND).stdout
    until(lambda: not on_ray.left(), "nothing is left")


def test_a_training_asks_for_a_gpu(shop: Cli, on_ray: Cluster) -> None:
    write_shop(shop.data, "Toys", ray={"address": on_ray.address, "gpus": 1})
    shop("run", "--only", "models/scratch", timeout=1500)
    assert DataFolder(shop.data).store.is_published("models/scratch", "Toys")
    asked = [actor["required_resources"] for actor in on_ray.actors() if actor["class_name"] == "JobSupervisor"]
    assert {"CPU": 1.0, "GPU": 1.0} in asked
    assert {"CPU": 1.0} in asked


@pytest.mark.soak  # forty steps, each of which starts Python on a node; the test of five steps is the small form
@pytest.mark.timeout(3600)
def test_a_whole_sample_makes_the_same_versions(
    tiny: Cli, on_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "raw_files").symlink_to(tiny.data / "raw_files")
    settings = yaml.safe_load((tiny.data / "domains.yaml").read_text())
    settings["ray"] = {"address": on_ray.address}
    (data / "domains.yaml").write_text(yaml.safe_dump(settings))
    Cli(data)("run", timeout=1800)
    made = versions(data)
    monkeypatch.delenv(STORE_VARIABLE)
    assert made == versions(tiny.data)


@pytest.mark.parametrize("victim", ["step", "worker", "node"])
def test_a_step_that_is_killed_is_tried_again(
    shop: Cli, on_ray: Cluster, server: Server, expected: dict[str, str], victim: str
) -> None:
    with going(shop, on_ray, server) as run:
        if victim == "step":
            os.kill(on_ray.steps()[0], signal.SIGKILL)
        elif victim == "worker":
            os.kill(worker_of(on_ray.steps()[0]), signal.SIGKILL)
        else:
            on_ray.kill("second")
            on_ray.start_second()
        assert run.ended() == 0, run.out.read_text()
    assert versions(shop.data) == first(expected)
    assert len(messages(shop.data, dg.DagsterEventType.STEP_UP_FOR_RETRY)) == 1
    until(lambda: not on_ray.left(), "nothing is left")


def test_the_next_run_stops_what_a_killed_one_left_and_finishes(
    shop: Cli, on_ray: Cluster, server: Server, expected: dict[str, str]
) -> None:
    with going(shop, on_ray, server) as killed:
        killed.process.kill()
        killed.process.join()
        assert on_ray.left() != []
        known = {job["submission_id"] for job in on_ray.jobs() if job["status"] == "RUNNING"}
        assert len(known) == 2
        second = forked.start(TWO, {**os.environ, "MMM4REC_DATA": str(shop.data)}, killed.out, killed.out)
        try:
            stopped = lambda: {j["submission_id"] for j in on_ray.jobs() if j["status"] == "STOPPED"} >= known  # noqa: E731
            until(stopped, "the jobs of the killed run are stopped")
            server.tell(faults=[])
            second.join(900)
            assert second.exitcode == 0, killed.out.read_text()
        finally:
            second.kill()
    assert versions(shop.data) == first(expected)
    until(lambda: not on_ray.left(), "nothing is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_by_a_signal_leaves_nothing(
    shop: Cli, on_ray: Cluster, server: Server, number: signal.Signals
) -> None:
    with going(shop, on_ray, server) as run:
        assert run.process.pid
        os.kill(run.process.pid, number)
        run.process.join(60)
        assert run.process.exitcode == 128 + number
        until(lambda: not on_ray.left(), "nothing is left", 30)
    assert messages(shop.data, dg.DagsterEventType.RUN_CANCELED) != []


def test_a_run_goes_on_when_the_head_is_back(
    shop: Cli, on_ray: Cluster, server: Server, expected: dict[str, str]
) -> None:
    with going(shop, on_ray, server) as run:
        on_ray.kill("head")
        # Nodes end when their head has been away for a minute, or is another one.
        on_ray.kill("second")
        until(
            lambda: any("Error while checking health" in line for line in messages(shop.data, ENGINE)),
            "the run says that it cannot see its steps",
        )
        on_ray.start()
        assert run.ended() == 0, run.out.read_text()
    assert versions(shop.data) == first(expected)


ENGINE = dg.DagsterEventType.ENGINE_EVENT


def _no_token(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", str(data))  # where Ray looks for a token


def _wrong_token(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-0123456789-0123456789")


def _nobody(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    write_shop(data, "Toys", ray={"address": f"http://127.0.0.1:{free_ports(1)[0]}"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_no_token, "refuses this process: RAY_AUTH_MODE must be `token`, and RAY_AUTH_TOKEN the token with which"),
        (_wrong_token, "refuses this process: RAY_AUTH_MODE must be `token`, and RAY_AUTH_TOKEN the token with which"),
        (_nobody, "no Ray cluster can be used at http://127.0.0.1:"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_error(
    shop: Cli, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[pytest.MonkeyPatch, Path], None], said: str
) -> None:
    wrong(monkeypatch, shop.data)
    done = shop(*COMMAND, code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr


def test_the_ui_puts_steps_there_and_a_cancelled_run_leaves_nothing(
    shop: Cli, on_ray: Cluster, server: Server, tmp_path: Path
) -> None:
    command = tmp_path / "mmm4rec"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines "$@"\n')
    command.chmod(0o755)
    with Served(shop.data, command=command) as ui:
        done = ui.launch("Toys", "raw/metadata")
        assert ui.ended(done) == "SUCCESS", messages(shop.data, dg.DagsterEventType.RUN_FAILURE)
        until(lambda: [job["status"] for job in on_ray.jobs(done)] == ["SUCCEEDED"], "its step was one job")
        server.tell(faults=[SLOW], forget=True)
        cancelled = ui.launch("Toys", "raw/ratings")
        until(lambda: any(line.startswith("PUT ") for line in server.tell()["seen"]), "the step publishes")
        assert ui.ask(TERMINATE, run=cancelled)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        assert ui.ended(cancelled) == "CANCELED"
        until(lambda: not on_ray.left(), "nothing is left", 60)
        assert [job["status"] for job in on_ray.jobs(cancelled)] == ["STOPPED"]
        server.tell(faults=[])
        write_shop(shop.data, "Toys", ray={"address": f"http://127.0.0.1:{free_ports(1)[0]}"})
        assert ui.ended(ui.launch("Toys", "raw/ratings")) == "FAILURE"
    assert any("no Ray cluster can be used at" in line for line in messages(shop.data, ENGINE))
