"""Sensors and schedules, tick by tick: what they see, what they ask for, and that they stop asking."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import DOMAINS
from pipelines.planner.plan import Stage, plan
from pipelines.planner.step import all_steps
from pipelines.running import automation, occasions
from pipelines.running.definitions import build_defs
from pipelines.running.occasions import ready
from tests.pipelines.small import write_settings, write_shop
from tests.warehouse.work import leave, overwrite, write_raw
from warehouse.artifacts import reader as store
from warehouse.artifacts.store import ALL

STEPS = all_steps()
NOW = automation.datetime.fromisoformat("2026-01-04T03:00:00+00:00")
AT_REST = occasions._at_rest

DOWN_TO = {"raw/ratings", "models/scratch", "reports/recommendations"}


class Daemon:
    """Ticks as Dagster's daemon makes them, over an instance of their own; runs happen when `perform` is called."""

    def __init__(self, instance: dg.DagsterInstance, data_folder: DataFolder) -> None:
        self.instance = instance
        self.data_folder = data_folder
        self.cursors: dict[str, str | None] = {}
        self.keys: set[str] = set()
        self.said = ""

    def tick(self, sensor: Callable[..., Any]) -> list[dg.RunRequest]:
        """The new runs that a sensor asks for."""
        name = sensor.__name__
        definition = build_defs(self.data_folder).resolve_sensor_def(name)
        opened = {"data_folder": DataFolder(self.data_folder.path)}
        context = dg.build_sensor_context(self.instance, self.cursors.get(name), resources=opened)
        result: Any = definition(context)
        self.cursors[name] = result.cursor
        self.said = result.skip_reason.skip_message if result.skip_reason else ""
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return self._new(result.run_requests or [])

    def _new(self, asked: list[dg.RunRequest]) -> list[dg.RunRequest]:
        new = [request for request in asked if request.run_key not in self.keys]
        self.keys |= {str(request.run_key) for request in new}
        return new

    def week(self, day: str) -> list[dg.RunRequest]:
        """What the schedule asks for on a day."""
        context = dg.build_schedule_context(
            self.instance, scheduled_execution_time=automation.datetime.fromisoformat(f"{day}T03:00:00+00:00")
        )
        answer: Any = automation.rebuild(context, DataFolder(self.data_folder.path))
        return [] if isinstance(answer, dg.SkipReason) else answer

    def perform(self, request: dg.RunRequest) -> bool:
        """Run it, and say whether it succeeded."""
        job = build_defs(self.data_folder).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            asset_selection=list(request.asset_selection or ()),
            tags=request.tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        ).success

    def start(self, job: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        """A job, as the UI or a schedule starts it."""
        if partition:
            self.instance.add_dynamic_partitions("domain", [partition])
        found = build_defs(self.data_folder).resolve_job_def(job)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return found.execute_in_process(
            instance=self.instance, raise_on_error=False, partition_key=partition, run_config=quiet
        )

    def failure(self, job: str) -> str:
        """What a job fails with."""
        run = self.start(job, "Toys" if job == "one_domain" else None)
        assert not run.success
        return "\n".join(event.step_failure_data.error.message for event in run.get_step_failure_events())

    def skipped(self, schedule: str) -> str:
        """Why a schedule asks for nothing."""
        definition = build_defs(self.data_folder).resolve_schedule_def(schedule)
        opened = {"data_folder": DataFolder(self.data_folder.path)}
        context = dg.build_schedule_context(self.instance, scheduled_execution_time=NOW, resources=opened)
        return str(definition.evaluate_tick(context).skip_message)

    def finish(self) -> list[str | None]:
        """Go on until nothing more is asked for; the partitions of the runs, in order."""
        ran: list[str | None] = []
        while asked := self.tick(automation.next_stages):
            for request in asked:
                self.perform(request)
                ran.append(request.partition_key)
            assert len(ran) < 30, "it never ends"
        return ran


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("MMM4REC_DATA", str(folder))
    monkeypatch.setattr(occasions, "_at_rest", lambda *_: True)  # the files of a test have just been written
    return folder


@pytest.fixture
def daemon(request: pytest.FixtureRequest, tmp_path: Path, data: Path) -> Iterator[Daemon]:
    silent = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    with (
        dg.DagsterInstance.local_temp(str(tmp_path), overrides={"compute_logs": silent})
        if hasattr(request, "param")
        else dg.DagsterInstance.ephemeral()
    ) as instance:
        yield Daemon(instance, DataFolder(data))


in_files = pytest.mark.parametrize("daemon", ["in files"], indirect=True)
"""For tests of schedules, which open their instance anew. The others keep it in memory, which takes half the time, as
of an instance in files a database is opened for every event."""


def _assets(request: dg.RunRequest) -> set[str]:
    return {"/".join(key.path) for key in request.asset_selection or ()}


def _taken(daemon: Daemon) -> list[dg.RunRequest]:
    """Two looks: the first sees, the second takes."""
    assert daemon.tick(automation.raw_files) == []
    return daemon.tick(automation.raw_files)


@pytest.mark.long
def test_a_new_category_is_built_down_to_the_catalogue(data: Path, daemon: Daemon) -> None:
    write_shop(data)
    assert _taken(daemon) == []
    assert daemon.instance.get_dynamic_partitions(str(DOMAINS.name)) == []
    write_raw(data / "raw_files", "Toys", 0)
    (request,) = _taken(daemon)
    assert request.partition_key == "Toys"
    assert daemon.instance.get_dynamic_partitions(str(DOMAINS.name)) == ["Toys"]
    assert _assets(request) > DOWN_TO
    assert daemon.tick(automation.next_stages) == []
    assert daemon.perform(request)
    assert daemon.finish() == [None]
    assert DataFolder(data).catalogue.is_file()
    assert DataFolder(data).store.require("reports/recommendations", "Toys")
    assert plan(DataFolder(data), ["Toys"]) == []
    # Nothing upstream changes: not even a plan is made, and a file that was only touched asks for nothing.
    assert _taken(daemon) == daemon.tick(automation.next_stages) == []
    (data / "raw_files" / "Toys.csv").touch()
    assert _taken(daemon) == []
    assert daemon.said == "nothing to build for Toys"


def test_an_entry_in_the_settings_makes_a_category_known(data: Path, daemon: Daemon) -> None:
    write_shop(data)
    raw = data / "raw_files"
    write_raw(raw, "Toys", 0)
    (raw / "Toys.csv").rename(raw / "1 toys.csv")
    (raw / "meta_Toys.json").rename(raw / "meta_1 toys.json")
    assert _taken(daemon) == []
    write_settings(data, domains={"Toys": {"category": "1 toys"}})
    (request,) = _taken(daemon)
    assert request.partition_key == "Toys"


@pytest.mark.long
def test_sources_then_the_shared_model_then_targets(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", sources=("Mugs",))
    asked = {request.partition_key: request for request in _taken(daemon)}
    assert asked.keys() == {"Mugs", "Toys"}
    assert not {"models/finetuned", "reports/metrics"} & _assets(asked["Toys"])
    assert daemon.perform(asked["Mugs"])
    (shared,) = daemon.tick(automation.next_stages)
    assert _assets(shared) == {"models/pretrained"}
    assert daemon.tick(automation.next_stages) == []
    assert daemon.perform(asked["Toys"])
    assert daemon.tick(automation.next_stages) == []
    assert daemon.perform(shared)
    assert sorted(map(str, daemon.finish())) == ["Mugs", "None", "Toys"]
    data_folder = DataFolder(data)
    assert plan(data_folder, data_folder.present()) == []

    before = {artifact.ref: artifact.version for artifact in data_folder.store.all_current()}
    write_raw(data / "raw_files", "Toys", 1)
    (request,) = _taken(daemon)
    assert daemon.perform(request)
    assert daemon.finish() == [None]
    after = {artifact.ref: artifact.version for artifact in data_folder.store.all_current()}
    changed = {ref for ref in after if after[ref] != before[ref]}
    assert changed
    assert {ref.split("@")[1] for ref in changed} <= {"Toys", ALL}
    assert "models/pretrained@_all" not in changed
    assert "models/finetuned@Toys" in changed

    # A source that changes concerns all that learns from it.
    write_raw(data / "raw_files", "Mugs", 1)
    (request,) = _taken(daemon)
    assert request.partition_key == "Mugs"
    assert daemon.perform(request)
    assert daemon.finish()[0] is None
    assert plan(DataFolder(data), ["Mugs", "Toys"]) == []


def test_a_file_that_grows_is_not_taken(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys")
    for _ in range(3):
        assert daemon.tick(automation.raw_files) == []
        with (data / "raw_files" / "Toys.csv").open("a") as file:
            file.write("\nToys1,U1,5.0,7")
    assert len(_taken(daemon)) == 1


def test_a_cut_gzip_file_is_not_taken(data: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(data, "Toys", "Mugs")
    plain = data / "raw_files" / "meta_Toys.json"
    whole = gzip.compress(plain.read_bytes())
    plain.unlink()
    packed = plain.with_suffix(".json.gz")
    packed.write_bytes(whole[:-20])
    (request,) = _taken(daemon)
    assert request.partition_key == "Mugs"
    packed.touch()
    assert _taken(daemon) == []
    assert "Toys is not built" in daemon.said
    assert "meta_Toys.json.gz is cut or damaged" in daemon.said
    with monkeypatch.context() as patch:
        patch.setattr(automation, "blocks", None)  # it is not read again
        assert daemon.tick(automation.raw_files) == []
    packed.write_bytes(whole)
    (request,) = _taken(daemon)
    assert request.partition_key == "Toys"


def _ended(daemon: Daemon, request: dg.RunRequest) -> None:
    """A run that failed at once."""
    tags = request.tags | ({"dagster/partition": request.partition_key} if request.partition_key else {})
    selected = frozenset(request.asset_selection or ())
    failed = dg.DagsterRunStatus.FAILURE
    daemon.instance.add_run(dg.DagsterRun("__ASSET_JOB", status=failed, asset_selection=selected, tags=tags))


def test_what_goes_back_to_what_it_was_is_built_again(data: Path, daemon: Daemon, tmp_path: Path) -> None:
    """Settings, and files whose times are kept: each change is an occasion of its own, tried once."""
    write_shop(data, "Toys")
    raw, backup = data / "raw_files", tmp_path / "backup"
    for path in raw.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    shutil.copytree(raw, backup)
    names = set()

    def tried() -> None:
        (request,) = _taken(daemon)
        names.add(request.tags[occasions.OCCASION_TAG])
        _ended(daemon, request)
        assert _taken(daemon) == []

    for k in (3, 4, 3):
        write_settings(data, domains={"Toys": {"k": k}})
        tried()
    write_raw(raw, "Toys", 1)
    tried()
    for path in backup.iterdir():
        shutil.copy2(path, raw / path.name)
    tried()
    # Nor does it matter that size and time are those of the file before.
    content = (raw / "Toys.csv").read_bytes()
    (raw / "Toys.csv").write_bytes(content.replace(b"5.0", b"1.0"))
    os.utime(raw / "Toys.csv", (1_000_000_000, 1_000_000_000))
    tried()
    assert len(names) == 6


def test_a_tick_that_is_evaluated_twice_asks_for_the_same(data: Path, daemon: Daemon) -> None:
    """The daemon was killed before it had stored the cursor."""
    write_shop(data, "Toys")
    daemon.tick(automation.raw_files)
    cursor = daemon.cursors["raw_files"]
    (request,) = daemon.tick(automation.raw_files)
    daemon.cursors["raw_files"] = cursor
    assert daemon.tick(automation.raw_files) == [], "the run's key is known"
    _ended(daemon, request)
    daemon.cursors["raw_files"] = cursor
    (last,) = daemon.tick(automation.raw_files)
    assert last.partition_key is None, "what failed does not hold up the catalogue"
    _ended(daemon, last)
    daemon.keys.clear()
    daemon.cursors["raw_files"] = cursor
    assert daemon.tick(automation.raw_files) == []
    assert daemon.said.startswith("stale, but tried already: raw/")
    assert daemon.said.endswith("warehouse/catalogue and 1 more of all domains")
    # A cursor of an earlier release, which does not say since when: what was taken stays so.
    state, look, _ = json.loads(str(cursor))["Toys"]
    daemon.cursors["raw_files"] = json.dumps({"Toys": ["taken", look]})
    assert daemon.tick(automation.raw_files) == []
    assert daemon.said == "no new or changed raw files"
    assert state == "seen"


@in_files
def test_what_was_refused_is_built_by_no_occasion(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", sources=("Mugs",))
    STEPS["raw/ratings"].publish(DataFolder(data), "Toys")
    plain = data / "raw_files" / "meta_Toys.json"
    whole = gzip.compress(plain.read_bytes())
    plain.unlink()
    packed = plain.with_suffix(".json.gz")
    packed.write_bytes(whole[:-20])
    (request,) = _taken(daemon)
    assert request.partition_key == "Mugs", "which Toys would learn from"
    _ended(daemon, request)
    reason = "Toys is not built: "
    for _ in range(2):
        assert daemon.tick(automation.raw_files) == []
        assert daemon.said.startswith(reason)
        assert "meta_Toys.json.gz is cut or damaged" in daemon.said
    assert "Toys" not in {request.partition_key for request in daemon.week("2026-11-22")}
    assert "Toys" not in {request.partition_key for request in daemon.tick(automation.next_stages)}
    answer = occasions.requests(DataFolder(data), occasions.Occasion("Toys itself", ("Toys",)), daemon.instance)
    assert "Toys" not in {request.partition_key for request in answer.runs}
    assert any(line.startswith(reason) for line in answer.left)
    # What the cache holds may be deleted at any time: then the file is looked at again.
    shutil.rmtree(data / "cache")
    assert daemon.tick(automation.raw_files) == []
    assert daemon.said.startswith(reason)
    packed.write_bytes(whole)
    assert "Toys" in {request.partition_key for request in daemon.week("2026-11-29")}
    (request,) = _taken(daemon)
    assert request.partition_key == "Toys"
    assert not (data / "cache" / "refused.json").exists()


@pytest.mark.long
@in_files
def test_what_fails_is_tried_once(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", "Mugs")
    (data / "raw_files" / "Toys.csv").write_text("no ratings\n")
    asked = {request.partition_key: request for request in _taken(daemon)}
    assert daemon.perform(asked["Mugs"])
    assert not daemon.perform(asked["Toys"])
    assert daemon.finish() == [None], "the catalogue is not held up"
    assert DataFolder(data).store.current("raw/ratings", "Toys") is None
    for _ in range(3):
        assert daemon.tick(automation.raw_files) == daemon.tick(automation.next_stages) == []
    # Once a week, whoever asks how often in it.
    weekly = daemon.week("2026-11-22")
    assert {request.partition_key for request in weekly} == {"Toys"}
    assert [r.run_key for r in weekly] == [r.run_key for r in daemon.week("2026-11-22")]
    assert not daemon.perform(weekly[0])
    assert daemon.finish() == [None]
    assert daemon.week("2026-11-22") == []
    assert daemon.week("2026-11-29")
    # Another file, another try.
    write_raw(data / "raw_files", "Toys", 1)
    (request,) = _taken(daemon)
    assert daemon.perform(request)
    assert daemon.finish() == [None]
    assert daemon.week("2026-12-06") == []


def test_a_run_that_dagster_will_retry_has_not_failed_yet(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys")
    (data / "raw_files" / "Toys.csv").write_text("no ratings\n")
    (request,) = _taken(daemon)
    assert not daemon.perform(request)
    (run,) = daemon.instance.get_runs()
    daemon.instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    assert daemon.tick(automation.next_stages) == []
    daemon.instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
    (request,) = daemon.tick(automation.next_stages)
    assert _assets(request) == {"warehouse/catalogue", "warehouse/report"}


@pytest.mark.long
def test_a_raw_file_that_moves_during_a_run(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys")
    (first,) = _taken(daemon)
    write_raw(data / "raw_files", "Toys", 1)
    (second,) = _taken(daemon)
    assert first.run_key != second.run_key
    assert daemon.perform(first)
    assert daemon.perform(second)
    daemon.finish()
    data_folder = DataFolder(data)
    assert plan(data_folder, ["Toys"]) == []
    assert len(list(data_folder.store.folder("raw/ratings", "Toys").glob("v=*"))) == 1


@pytest.mark.long
@in_files
def test_what_is_on_its_way_is_left_to_its_own_occasion(
    data: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shop(data, sources=("Mugs",))
    assert daemon.tick(automation.raw_files) == []
    write_raw(data / "raw_files", "Toys", 0)
    (request,) = daemon.tick(automation.raw_files)
    assert request.partition_key == "Mugs"
    assert daemon.perform(request)
    assert [request.partition_key for request in daemon.tick(automation.next_stages)] == [None], "Toys is new"
    monkeypatch.setattr(occasions, "_at_rest", AT_REST)
    assert "Toys" in [request.partition_key for request in daemon.tick(automation.raw_files)]
    for file in (data / "raw_files").glob("*Toys*"):
        file.chmod(0o644)  # just now, however long the run has taken
    assert {request.partition_key for request in daemon.week("2026-11-22")} == {None}


def test_what_another_occasion_builds_is_not_built_twice(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", sources=("Mugs",))
    STEPS["raw/ratings"].publish(DataFolder(data), "Toys")
    mine = occasions.Occasion("mine", ("Mugs",))
    asked = occasions.requests(DataFolder(data), mine, daemon.instance).runs
    assert {request.partition_key for request in asked} == {"Mugs", "Toys"}
    (of_toys,) = (request for request in asked if request.partition_key == "Toys")
    other = occasions.Occasion("other", ("Toys",))
    run = dg.DagsterRun(
        "__ASSET_JOB",
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset(of_toys.asset_selection or ()),
        tags={**other.tags, "dagster/partition": "Toys"},
    )
    daemon.instance.add_run(run)
    (request,) = occasions.requests(DataFolder(data), mine, daemon.instance).runs
    assert request.partition_key == "Mugs"
    # Another file is another reason, whatever is being built.
    (again,) = occasions.requests(DataFolder(data), occasions.Occasion("again", ("Toys",)), daemon.instance).runs
    assert again.partition_key == "Toys"


@pytest.mark.long
@in_files
def test_the_week_builds_what_is_stale_and_only_that(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", "Mugs")
    for request in daemon.week("2026-11-22"):
        assert daemon.perform(request)
    daemon.finish()
    assert daemon.week("2026-11-29") == []
    write_settings(data, domains={"Toys": {"max_length": 4}})
    (request,) = daemon.week("2026-12-06")
    assert request.partition_key == "Toys"
    assert not any(asset.startswith("raw/") for asset in _assets(request))
    assert daemon.perform(request)
    assert daemon.finish() == [None]
    assert daemon.week("2026-12-13") == []


def test_the_weekly_run_of_housekeeping_finds_damage(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys")
    data_folder = DataFolder(data)
    STEPS["raw/ratings"].publish(data_folder, "Toys")
    killed = leave(data)
    assert daemon.start("housekeeping").success
    assert not killed.exists()
    table = data_folder.store.require("raw/ratings", "Toys").main
    overwrite(table, bytes(table.stat().st_size))
    failed = daemon.start("housekeeping")
    assert not failed.success
    (event,) = failed.filter_events(lambda event: event.is_step_failure)
    assert f"{table} has the sha256" in event.step_failure_data.user_failure_data.description


def _stage(domain: str, *keys: str) -> Stage:
    return Stage(domain, tuple(STEPS[key] for key in keys))


def test_what_may_begin(data: Path) -> None:
    write_shop(data, "Toys", "Mugs", sources=("Pots",))
    data_folder = DataFolder(data)
    learnt = ("core/sequences", "features/text_embeddings", "features/image_embeddings")
    pots, shared = _stage("Pots", *learnt), _stage(ALL, "models/pretrained")
    toys, mugs = (_stage(domain, "models/finetuned") for domain in ("Toys", "Mugs"))
    last = _stage(ALL, "warehouse/catalogue", "warehouse/report")
    stages = [pots, shared, mugs, toys, last]
    assert ready(data_folder, stages, set(), set()) == [pots]
    assert ready(data_folder, stages, set(), {("core/sequences", "Pots")}) == [_stage("Pots", *learnt[1:])]
    assert ready(data_folder, stages[1:], set(), shared.refs) == []
    assert ready(data_folder, stages[2:], set(), set()) == [mugs, toys]
    assert ready(data_folder, stages[2:], toys.refs, mugs.refs) == []
    assert ready(data_folder, stages[2:], toys.refs, set()) == [mugs]
    assert ready(data_folder, stages[3:], toys.refs, set()) == [last], "what failed does not hold up the catalogue"
    assert ready(data_folder, stages, pots.refs, set()) == [last]
    assert ready(data_folder, [last], last.refs, set()) == []


def test_a_look_at_unchanged_files_reads_nothing(data: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(data, *(f"Shop{number}" for number in range(20)))
    assert len(_taken(daemon)) == 20
    cursor = json.loads(str(daemon.cursors["raw_files"]))
    assert cursor.keys() == {f"Shop{number}" for number in range(20)}
    assert len(str(daemon.cursors["raw_files"])) < 20 * 64

    def never(*_: object) -> None:
        raise AssertionError("it was read")

    for name in ("sha256_file", "_pointed"):
        monkeypatch.setattr(store, name, never)
    monkeypatch.setattr(automation, "blocks", never)
    assert daemon.tick(automation.raw_files) == daemon.tick(automation.next_stages) == []
    for path in (data / "raw_files").glob("*Shop1[0-9]*"):
        path.unlink()
    assert daemon.tick(automation.raw_files) == []
    assert len(json.loads(str(daemon.cursors["raw_files"]))) == 10


def _switches(data: Path) -> list[str]:
    """Name, default status and pace of each, as the settings are now."""
    defs = build_defs(DataFolder(data))
    sensors: Any = defs.sensors
    schedules: Any = defs.schedules
    return [
        *(f"{s.name} {s.default_status.value} {s.minimum_interval_seconds}" for s in sensors),
        *(f"{s.name} {s.default_status.value} {s.cron_schedule}" for s in schedules),
    ]


def test_nothing_is_on_that_nobody_switched_on(data: Path) -> None:
    assert _switches(data) == [
        "raw_files STOPPED 30",
        "next_stages RUNNING 30",
        "rebuild STOPPED 0 3 * * 0",
        "housekeeping STOPPED 0 5 * * 0",
    ]
    write_settings(data, automation={"enabled": True, "interval": 5, "rebuild": "0 1 1 * *"})
    assert _switches(data) == [
        "raw_files RUNNING 5",
        "next_stages RUNNING 5",
        "rebuild RUNNING 0 1 1 * *",
        "housekeeping RUNNING 0 5 * * 0",
    ]
    write_settings(data, automation={"enabled": True}, domains={"Toys": {"colour": "red"}})
    assert "raw_files RUNNING 30" in _switches(data), "that setting can be used"


BROKEN = {
    "no YAML": ("domains: [", "is not YAML"),
    "an unknown setting": (
        "domains: {Toys: {colour: red}}",
        "unknown setting 'colour'",
    ),
    "no time": ("automation: {rebuild: weekly}", "automation: rebuild: 'weekly' is not a cron expression"),
    "no interval": ("automation: {interval: 0}", "interval: 0 is not a number of seconds"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_settings_that_cannot_be_used_stop_no_tick_and_no_loading(
    data: Path, daemon: Daemon, text: str, said: str
) -> None:
    write_shop(data, "Toys")
    good = (data / "domains.yaml").read_text()
    assert daemon.tick(automation.raw_files) == []
    (data / "domains.yaml").write_text(text)
    daemon.data_folder = DataFolder(data)
    for sensor in (automation.raw_files, automation.next_stages):
        assert daemon.tick(sensor) == []
        assert said in daemon.said, sensor
    for schedule in ("rebuild", "housekeeping"):
        assert said in daemon.skipped(schedule), schedule
    # A time of a schedule stops no run.
    for job in () if "weekly" in text else ("everything", "housekeeping", "one_domain"):
        failure = daemon.failure(job)
        assert said in failure, job
        assert "Traceback" not in failure
    (data / "domains.yaml").write_text(good)
    assert daemon.tick(automation.next_stages) == []
    assert daemon.said == "no run that this waits for has ended"
    (request,) = daemon.tick(automation.raw_files)
    assert request.partition_key == "Toys"


def test_everything_is_built_by_one_click(data: Path, daemon: Daemon) -> None:
    write_shop(data, "Toys", sources=("Mugs",))
    assert daemon.start("everything").success
    (mugs, toys) = daemon.tick(automation.next_stages)
    assert [mugs.partition_key, toys.partition_key] == ["Mugs", "Toys"]
    assert {"core/sequences", "features/item_text"} < _assets(mugs)
    assert daemon.start("everything").success
    assert daemon.tick(automation.next_stages) != [], "a second click tries again"
