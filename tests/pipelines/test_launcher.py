"""Runs whose process is dead: they are known, and hold up nobody."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from pipelines.running.launcher import is_alive, process_tag
from pipelines.running.runs import open_instance
from tests import forked
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.small import LONG, write_settings, write_shop


def test_who_is_alive(tmp_path: Path) -> None:
    with process_tag(tmp_path) as tags:
        assert is_alive(dg.DagsterRun("job", tags=tags), tmp_path)
    assert not is_alive(dg.DagsterRun("job", tags=tags), tmp_path)
    assert all(len(value) <= 20 for value in tags.values()), "to be read beside every run"
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / "left"  # by a process that was killed
    left.touch()
    assert not is_alive(dg.DagsterRun("job", tags=dict.fromkeys(tags, "left")), tmp_path)
    assert is_alive(dg.DagsterRun("job"), tmp_path), "nobody knows"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def _begun(step: str) -> int:
    """How many runs have started the step."""
    with dg.DagsterInstance.get() as instance:
        return sum(
            bool(event.dagster_event and event.dagster_event.step_key == step)
            for run in instance.get_runs()
            for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
        )


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop whose training never ends, and Dagster's settings for it."""
    data = tmp_path / "data"
    monkeypatch.setenv("MMM4REC_DAGSTER", str(data / ".dagster"))
    monkeypatch.setenv("DAGSTER_HOME", str(REPOSITORY))
    write_shop(data, "Toys", finetuning=LONG)
    return data


@pytest.mark.long
def test_one_signal_ends_a_run_and_the_next_goes_on(data: Path, tmp_path: Path) -> None:
    """Though SIGINT was ignored as it started, which Dagster would take for SIGTERM too."""
    with open_instance(data / ".dagster"):
        pass
    out, err = tmp_path / "out", tmp_path / "err"
    built = []
    for count, number in enumerate((signal.SIGINT, signal.SIGTERM), 1):
        run = forked.start(["run", "--data", str(data)], os.environ, out, err, ignored=[signal.SIGINT])
        try:
            _until(lambda run=run, count=count: _begun("models__scratch") == count or not run.is_alive())
            assert run.pid
            os.kill(run.pid, number)
            run.join(60)
            assert run.exitcode == 128 + number, err.read_text()
        finally:
            run.kill()
        assert f"ended by {number.name}" in err.read_text()
        built.append({path: path.stat().st_mtime_ns for path in data.glob("*/*/*/v=*/manifest.json")})
    assert built[0] == built[1], "what was built is kept, and nothing is built after the signal"
    assert {path.parts[-5] for path in map(Path.absolute, built[1])} == {"raw", "core", "features"}
    with dg.DagsterInstance.get() as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.CANCELED}
        assert instance.event_log_storage.get_concurrency_run_ids() == set()


@pytest.mark.soak
def test_a_killed_run_gives_its_slot_back(data: Path) -> None:
    command = [str(REPOSITORY / ".venv/bin/mmm4rec"), "run", "--data", str(data)]
    with open_instance(data / ".dagster"):
        pass
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: bool(_begun("models__scratch")))
    run.send_signal(signal.SIGKILL)
    run.wait()
    # As it is left, before anybody looks after it.
    with dg.DagsterInstance.get() as instance:
        (killed,) = instance.get_runs()
        assert killed.status == dg.DagsterRunStatus.STARTED
        assert instance.event_log_storage.get_concurrency_info("gpu").active_run_ids == {killed.run_id}
    write_settings(data)
    Cli(data)("run")
    with open_instance(data / ".dagster") as instance:
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses.pop(killed.run_id) == dg.DagsterRunStatus.FAILURE
        assert set(statuses.values()) == {dg.DagsterRunStatus.SUCCESS}
        assert instance.event_log_storage.get_concurrency_run_ids() == set()
