"""The event log of dagster.yaml: what several processes write at once is all there, and is seen as it comes."""

import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.running.storage import _RUNS, EventLog
from tests.conftest import REPOSITORY


@dg.asset
def toys(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    for number in range(3):
        context.log.info(f"line {number}")
    return dg.MaterializeResult(metadata={"rows": 3})


def opened(folder: Path) -> dg.DagsterInstance:
    """An instance as the project's dagster.yaml describes it."""
    folder.mkdir(exist_ok=True)
    storage = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())["storage"]
    storage["custom"]["config"]["base_dir"] = str(folder / "history")
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
    return dg.DagsterInstance.from_config(str(folder))


def materialise(folder: Path, times: int) -> list[str]:
    with opened(folder) as instance:
        assert isinstance(instance.event_log_storage, EventLog)
        return [dg.materialize([toys], instance=instance).run_id for _ in range(times)]


@pytest.mark.long
def test_what_several_processes_write_at_once_is_all_there(tmp_path: Path) -> None:
    with opened(tmp_path / "home"):  # makes the tables
        pass
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        runs = [run for found in pool.map(materialise, [tmp_path / "home"] * 3, [4] * 3) for run in found]
    with opened(tmp_path / "home") as instance:
        records = instance.fetch_materializations(toys.key, limit=100).records
        assert sorted(record.run_id for record in records) == sorted(runs)
        for run in runs:
            said = [entry.user_message for entry in instance.all_logs(run)]
            assert [line for line in said if line.startswith("line ")] == ["line 0", "line 1", "line 2"]


def test_who_follows_a_run_sees_each_event(tmp_path: Path) -> None:
    """As the UI does while a step of another process works."""
    run = str(uuid.uuid4())
    with opened(tmp_path / "home") as writing, opened(tmp_path / "home") as reading:
        writing.report_engine_event("begins", job_name="job", run_id=run)
        seen: list[str] = []
        reading.watch_event_logs(run, None, lambda entry, cursor: seen.append(entry.message))
        for number in range(3):
            writing.report_engine_event(f"event {number}", job_name="job", run_id=run)
            until = time.monotonic() + 60
            while not any(f"event {number}" in message for message in seen):
                assert time.monotonic() < until, f"event {number} was not seen: {seen}"
                time.sleep(0.05)


def test_engines_are_few(tmp_path: Path) -> None:
    with opened(tmp_path / "home") as instance:
        log = instance.event_log_storage
        assert isinstance(log, EventLog)
        for _ in range(_RUNS + 5):
            instance.report_engine_event("begins", job_name="job", run_id=str(uuid.uuid4()))
        assert len([name for name in log._engines if name != "index"]) == _RUNS
    assert not log._engines


def test_it_goes_on_where_dagsters_own_has_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    plain = {"storage": {"sqlite": {"base_dir": str(home / "history")}}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(plain))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = [dg.materialize([toys], instance=instance).run_id]
    runs += materialise(home, 1)
    with opened(home) as instance:
        assert {record.run_id for record in instance.fetch_materializations(toys.key, limit=9).records} == set(runs)
