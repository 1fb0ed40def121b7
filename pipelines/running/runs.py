"""Runs: building the stages of a plan through Dagster, in this process.

There is one Dagster run per stage, with the same instance and assets as in the UI, so both leave the same records.
"""

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import EXPECTED
from pipelines.planner import event_log
from pipelines.planner.asset import DOMAINS, NOT_SHOWN, asset_key
from pipelines.planner.plan import Stage
from pipelines.planner.step import Ref, Step, all_steps
from pipelines.running import on_ray
from pipelines.running.automation import check_times
from pipelines.running.definitions import build_defs
from pipelines.running.in_process import run_here
from pipelines.running.jobs import job_of
from pipelines.running.launcher import cancel, fail_dead_runs, process_tag, running_folder
from pipelines.signals import Interrupted, aside
from warehouse.artifacts.locks import held
from warehouse.artifacts.staging import make_folder, unlinked
from warehouse.artifacts.store import ALL

_DATABASES = ("history", "schedules")
"""Folders of Dagster's databases."""
# Dagster puts the class of an error before its message. The messages of this project's errors need no class.
_OWN_ERROR = re.compile(r"^(warehouse|features|mmm4rec|pipelines)\.[\w.]*Error: ")


@dataclass(frozen=True)
class StageResult:
    """How a stage ended: error messages by asset key. If it was skipped, `waited_for` names the failed input.

    `built` has the version of each asset that the run built; one that was found unchanged is not in it. `warnings` are
    failed checks that do not block, with their results, and exhibits that could not be made.
    """

    stage: Stage
    run_id: str | None
    errors: dict[str, str]
    warnings: dict[str, str] = field(default_factory=dict)
    waited_for: Ref | None = None
    built: dict[str, str] = field(default_factory=dict)


@contextmanager
def open_instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance with its databases in `folder`. MMM4REC_DAGSTER must name this folder."""
    make_folder(unlinked(folder.parent, folder))
    making = folder / ".making"
    # If two processes create the tables of new databases at the same time, one of them fails.
    with held(folder / ".lock"):
        if making.exists():
            # The process that created them was killed. Dagster would take the half-made databases as complete and fail.
            for name in _DATABASES:
                shutil.rmtree(folder / name, ignore_errors=True)
        if not any((folder / name).exists() for name in _DATABASES):
            making.touch()
        opened = dg.DagsterInstance.get()
        making.unlink(missing_ok=True)
    with opened as instance:
        fail_dead_runs(instance)
        yield instance


def execute(data_folder: DataFolder, stages: Sequence[Stage], instance: dg.DagsterInstance) -> Iterator[StageResult]:
    """Run the stages in order and yield how each ended. A stage with failed inputs is skipped; the others continue.

    Raises:
        CommandError: the steps are to run on a Ray cluster that cannot be used.
    """
    check_times(data_folder, data_folder.settings.automation)
    if data_folder.settings.ray.address:
        on_ray.connect(data_folder.settings.ray)
    jobs = build_defs(data_folder).get_repository_def()
    failed: set[Ref] = set()
    with process_tag(running_folder(instance)) as tags:
        for stage in stages:
            needed = {r for s in stage.steps if not s.collects for r in s.refs(data_folder, stage.domain)} - stage.refs
            lost = sorted(failed & needed)
            if lost:
                failed |= stage.refs
                yield StageResult(stage, None, {}, waited_for=lost[0])
                continue
            outcome = _run(data_folder, stage, instance, jobs.get_job(job_of(stage)), tags)
            failed |= {(key, stage.domain) for key in outcome.errors}
            yield outcome


def unrecorded(
    data_folder: DataFolder,
    planned: Sequence[Stage],
    instance: dg.DagsterInstance,
    domains: Sequence[str],
    only: Sequence[str] = (),
) -> list[Stage]:
    """Stages that build nothing: they record in Dagster's event log what is in the store.

    `planned` is the plan for these `domains` and `only` these assets. Assets that are not in it are not stale.
    """
    coming = {ref for stage in planned for ref in stage.refs}
    behind: dict[str, list[Step]] = {}
    for key, domain in event_log.unrecorded(data_folder, instance):
        if (key, domain) not in coming and domain in {*domains, ALL} and (not only or key in only):
            behind.setdefault(domain, []).append(all_steps()[key])
    return [Stage(domain, tuple(steps)) for domain, steps in sorted(behind.items())]


def _run(
    data_folder: DataFolder, stage: Stage, instance: dg.DagsterInstance, job: dg.JobDefinition, tags: Mapping[str, str]
) -> StageResult:
    if stage.partition:
        instance.add_dynamic_partitions(str(DOMAINS.name), [stage.partition])
    run_id = str(uuid.uuid4())
    try:
        assets = [asset_key(key) for key in stage.asset_keys(data_folder)]
        elsewhere = data_folder.settings.ray.address is not None
        result = aside(lambda: run_here(job, instance, run_id, assets, stage.partition, tags, elsewhere))
    except (Interrupted, KeyboardInterrupt) as signal:
        cancel(instance, run_id, f"the command that ran it was ended by {str(signal) or 'SIGINT'}")
        if data_folder.settings.ray.address:
            with suppress(*EXPECTED):  # if the cluster cannot be reached, the next run stops them
                on_ray.stop_leftovers(data_folder.settings.ray, instance)
        raise
    events = result.get_asset_materialization_events()
    made = {"/".join(event.asset_key.path): event.materialization for event in events if event.asset_key}
    errors: dict[str, str] = {}
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        key = str(event.step_key).replace("__", "/", 1)
        if error:
            errors[key] = _OWN_ERROR.sub("", (error.cause or error).message.strip())
    evaluations = result.get_asset_check_evaluations()
    blocked: dict[str, str] = {}
    for check in evaluations:
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            blocked.setdefault("/".join(check.asset_key.path), check.description or check.check_name)
    errors |= blocked
    # Causes come first: what was not reached follows from them.
    reason = "not reached" if errors else _failure(result)
    errors |= {key: reason for key, _ in sorted(stage.refs) if key not in made and key not in errors}
    warnings = {
        f"{'/'.join(check.asset_key.path)} {check.check_name}": ", ".join(
            f"{name} {value.value}" for name, value in sorted(check.metadata.items())
        )
        for check in evaluations
        if not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    }
    built = {}
    for key, shown in made.items():
        if missing := shown.metadata.get(NOT_SHOWN):
            warnings[f"{key} {NOT_SHOWN}"] = str(missing.value)
        if key not in errors and "built" in shown.metadata and shown.metadata["built"].value:
            built[key] = (shown.tags or {})[event_log.DATA_VERSION]
    return StageResult(stage, result.run_id, errors, warnings, built=built)


def _failure(result: dg.JobExecutionResult) -> str:
    """Why a run failed without a failed step: such as a cluster that went away."""
    for event in result.filter_events(lambda event: event.is_job_failure):
        if error := event.job_failure_data.error:
            return _OWN_ERROR.sub("", error.message.strip())
    return "not reached"
