"""What Dagster's daemon does by itself: two sensors and two schedules.

`raw_files` sees new and changed raw files, `rebuild` comes by the week. Each opens an occasion, a set of domains to
bring up to date, and asks for the runs that can begin; `next_stages` asks for those that their ends make possible.
The plan (`plan`) says what is stale. Within an occasion each asset of each domain is tried once, so what fails waits
for another change or another week, and nothing loops. A raw file that was refused is built by no occasion until it
changes.

`automation: {enabled: true}` in domains.yaml, or the switches in the UI, set this to work. `next_stages` is always on:
it goes on with what somebody switched on.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG, WILL_RETRY_TAG

from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.settings import AutomationSettings
from pipelines.errors import SettingsError
from pipelines.garbage import collect
from pipelines.lineage import verify
from pipelines.planner.asset import DOMAINS
from pipelines.planner.plan import Stage, plan
from pipelines.planner.step import Ref
from warehouse.artifacts.durable import replacing
from warehouse.artifacts.store import ALL
from warehouse.errors import DataError
from warehouse.raw.formats import KINDS
from warehouse.raw.lines import blocks

OCCASION_TAG = "mmm4rec/occasion"
DOMAINS_TAG = "mmm4rec/domains"
AUTOMATIC_TAG = "mmm4rec/automatic"

_CHECKING = 20
"""Seconds of a tick after which no further file is read through; Dagster ends a tick after 60."""
_TOGETHER = 16
"""Domains of one occasion at most: databases index tags, and take no long ones."""
_REFUSED = "refused.json"
"""In the cache: why the raw files of a domain are not taken, beside the look of those files."""
_OVERLAP = timedelta(minutes=1)
"""Runs are looked at again for so long, since the clock of a tick is not that of the database."""


@dataclass(frozen=True)
class Occasion:
    """Why something is built: a name that is its own, and the domains that changed, or ALL."""

    name: str
    changed: tuple[str, ...]

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Self:
        """The occasion that a run was asked for."""
        return cls(run.tags[OCCASION_TAG], tuple(run.tags[DOMAINS_TAG].split(",")))

    @property
    def tags(self) -> dict[str, str]:
        """How its runs are known."""
        return {AUTOMATIC_TAG: "true", OCCASION_TAG: self.name, DOMAINS_TAG: ",".join(self.changed)}


@dataclass(frozen=True)
class Requested:
    """The runs of an occasion that can begin now, and in words why the rest of what is stale is left."""

    runs: list[dg.RunRequest]
    left: list[str]


def requests(data_folder: DataFolder, occasion: Occasion, instance: dg.DagsterInstance) -> Requested:
    """The runs of an occasion that can begin now; those that began are known by their tags."""
    tried: set[Ref] = set()
    busy: set[Ref] = set()
    runs = instance.get_runs(dg.RunsFilter(tags={OCCASION_TAG: occasion.name}))
    retried = {run.parent_run_id for run in runs}
    for run in runs:
        if run.run_id in retried:
            continue
        ended = run.is_finished and not (run.is_failure and run.tags.get(WILL_RETRY_TAG) == "true")
        (tried if ended else busy).update(_refs(run))
    # What another occasion builds of a domain that this one is not about need not be built twice.
    automatic = dg.RunsFilter(tags={AUTOMATIC_TAG: "true"}, statuses=NOT_FINISHED_STATUSES)
    for run in instance.get_runs(automatic):
        if PARTITION_NAME_TAG in run.tags and run.tags[PARTITION_NAME_TAG] not in occasion.changed:
            busy |= _refs(run)
    stages = plan(data_folder, _affected(data_folder, occasion.changed))
    refused = _refused(data_folder)
    lost: set[Ref] = set()
    left = [_not_taken(stage.domain, refused) for stage in stages if stage.domain in refused]
    for stage in stages:
        # Of others than the changed ones: what is new, or is being copied, has an occasion to come.
        foreign = stage.partition and stage.domain not in occasion.changed
        if stage.domain in refused or (foreign and not _concerns(data_folder, occasion, stage.domain)):
            lost |= stage.refs
        elif again := [step.key for step in stage.steps if (step.key, stage.domain) in tried]:
            more = f" and {len(again) - 1} more" if len(again) > 1 else ""
            left.append(f"stale, but tried already: {again[0]}{more} of {stage.name}")
    asked = [_request(data_folder, stage, occasion) for stage in ready(data_folder, stages, tried | lost, busy)]
    return Requested(asked, list(dict.fromkeys(left)))


def _refs(run: dg.DagsterRun) -> set[Ref]:
    """What a run was asked for."""
    domain = run.tags.get(PARTITION_NAME_TAG, ALL)
    return {("/".join(key.path), domain) for key in run.asset_selection or ()}


def ready(data_folder: DataFolder, stages: Sequence[Stage], tried: set[Ref], busy: set[Ref]) -> list[Stage]:
    """Of the stages of a plan, what can be built now.

    What was tried and is stale still is lost, with all that needs it. What needs something that is being built, or is
    to be, comes later; a step that collects comes last, lost ones or not.
    """
    lost: set[Ref] = set()
    coming: set[Ref] = set()
    found = []
    for stage in stages:
        steps = []
        for step in stage.steps:
            ref = (step.key, stage.domain)
            needed = set() if step.collects else set(step.refs(data_folder, stage.domain))
            if ref in busy or needed & coming or (step.collects and coming):
                coming.add(ref)
            elif ref in tried or needed & lost:
                lost.add(ref)
            else:
                steps.append(step)
        if steps:
            found.append(Stage(stage.domain, tuple(steps)))
            coming |= found[-1].refs
    return found


def _request(data_folder: DataFolder, stage: Stage, occasion: Occasion) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{occasion.name} {_digest(sorted(stage.refs))}",
        partition_key=stage.partition,
        asset_selection=stage.asset_keys(data_folder),
        tags=occasion.tags,
    )


def _partitions(asked: Iterable[dg.RunRequest]) -> list[Any]:
    """Requests for the partitions of runs, which may be new."""
    names = sorted({request.partition_key for request in asked if request.partition_key})
    return [DOMAINS.build_add_request(names)] if names else []


def raw_files(context: dg.SensorEvaluationContext, data_folder: dg.ResourceParam[DataFolder]) -> dg.SensorResult:
    """Sees new categories and changed raw files, and asks for all that depends on them.

    Files are taken when size and times stayed the same between two ticks and their gzip streams are whole. The cursor
    holds for each domain how far that went ("seen" or "taken"), a digest of what showed, and when that was first seen:
    with it, what goes back to what it once was is another occasion, and a tick that is evaluated twice the same one.
    """
    before = json.loads(context.cursor or "{}")
    after: dict[str, tuple[str, str, int]] = {}
    refused = _refused(data_folder)
    taken = []
    deadline = time.monotonic() + _CHECKING
    for domain in data_folder.present():
        look = _look(data_folder, domain)
        state, known, since = [*before.get(domain, ("seen", "")), 0][:3]  # an older cursor does not say since when
        if look != known:
            state, since = "seen", time.time_ns() // 1_000_000
        elif state != "taken" and domain not in refused and time.monotonic() < deadline:
            if flaw := _flaw(data_folder, domain):
                refused[domain] = flaw
            else:
                state = "taken"
                taken.append(domain)
        after[domain] = (state, look, since)
    _remember(data_folder, {domain: (after[domain][1], reason) for domain, reason in refused.items()})
    said = [_not_taken(domain, refused) for domain in refused]
    said += [f"left out {name!r}: {reason}" for name, reason in data_folder.left_out().items()]
    for line in said:
        context.log.warning(line)
    asked = []
    for first in range(0, len(taken), _TOGETHER):
        changed = tuple(taken[first : first + _TOGETHER])
        name = f"raw files {_digest([(domain, *after[domain]) for domain in changed])}"
        answer = requests(data_folder, Occasion(name, changed), context.instance)
        asked += answer.runs
        said += answer.left
    return dg.SensorResult(
        run_requests=asked or None,
        skip_reason=None if asked else "; ".join(dict.fromkeys(said)) or _nothing(taken),
        dynamic_partitions_requests=_partitions(asked),
        cursor=json.dumps(after),
    )


def next_stages(context: dg.SensorEvaluationContext, data_folder: dg.ResourceParam[DataFolder]) -> dg.SensorResult:
    """Goes on where a run ended that `raw_files` or `rebuild` asked for: with what its result makes possible."""
    now = datetime.now(UTC)
    since = datetime.fromisoformat(context.cursor) - _OVERLAP if context.cursor else None
    ended = context.instance.get_runs(
        dg.RunsFilter(tags={AUTOMATIC_TAG: "true"}, statuses=FINISHED_STATUSES, updated_after=since), limit=1000
    )
    occasions = {Occasion.of(run): None for run in reversed(ended)}
    answers = [requests(data_folder, occasion, context.instance) for occasion in occasions]
    asked = [request for answer in answers for request in answer.runs]
    left = dict.fromkeys(line for answer in answers for line in answer.left)
    return dg.SensorResult(
        run_requests=asked or None,
        skip_reason=None if asked else "; ".join(left) or "nothing that was waited for has ended",
        dynamic_partitions_requests=_partitions(asked),
        cursor=now.isoformat(),
    )


def rebuild(
    context: dg.ScheduleEvaluationContext, data_folder: dg.ResourceParam[DataFolder]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Asks for all that is stale: code, settings or encoders changed, something was damaged, or failed before."""
    occasion = Occasion(f"rebuild {context.scheduled_execution_time:%Y-%m-%d %H:%M}", (ALL,))
    answer = requests(data_folder, occasion, context.instance)
    for line in answer.left:
        context.log.warning(line)
    partitions = [request.partition_key for request in answer.runs if request.partition_key]
    context.instance.add_dynamic_partitions(str(DOMAINS.name), partitions)
    return answer.runs or dg.SkipReason("; ".join(answer.left) or "everything is up to date")


@dg.op
def clear_and_verify(context: dg.OpExecutionContext, data_folder: dg.ResourceParam[DataFolder]) -> None:
    """Removes what nobody needs, and hashes every file of every current version; what is damaged is stale then."""
    gone = collect(data_folder)
    context.log.info("removed %s leftovers of %s bytes", len(gone), sum(leftover.bytes for leftover in gone))
    problems = [problem for found in verify(data_folder).values() for problem in found]
    if problems:
        raise dg.Failure("\n".join(problems), metadata={"problems": len(problems)}, allow_retries=False)


@dg.job(description="Collects garbage and verifies hashes.", executor_def=dg.in_process_executor)
def housekeeping() -> None:
    """One run of `clear_and_verify`."""
    clear_and_verify()


def sensors(settings: AutomationSettings) -> list[dg.SensorDefinition]:
    """`raw_files`, and `next_stages`, which goes on with what somebody switched on."""
    of_all = dg.AssetSelection.all()
    switch = dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED
    pace = settings.interval
    always = dg.DefaultSensorStatus.RUNNING
    return [
        dg.sensor(asset_selection=of_all, minimum_interval_seconds=pace, default_status=switch)(raw_files),
        dg.sensor(asset_selection=of_all, minimum_interval_seconds=pace, default_status=always)(next_stages),
    ]


def schedules(settings: AutomationSettings) -> list[dg.ScheduleDefinition]:
    """`rebuild` and `housekeeping`, at the times that the settings give them.

    Raises:
        SettingsError: a time is no cron expression.
    """
    switch = dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED

    def timed(name: str, make: Callable[..., dg.ScheduleDefinition]) -> dg.ScheduleDefinition:
        cron = getattr(settings, name)
        try:
            return make(name=name, cron_schedule=cron, default_status=switch)
        except dg.DagsterInvalidDefinitionError as error:
            raise SettingsError(
                f"domains.yaml: automation: {name}: {cron!r} is no cron expression such as 0 3 * * 0"
            ) from error

    return [
        timed("rebuild", lambda **timing: dg.schedule(target=dg.AssetSelection.all(), **timing)(rebuild)),
        timed("housekeeping", partial(dg.ScheduleDefinition, job=housekeeping)),
    ]


def _affected(data_folder: DataFolder, changed: Sequence[str]) -> list[str]:
    """The domains at hand that depend on the changed ones: themselves, and on a source every target."""
    present = {name: data_folder.settings.domains[name].role for name in data_folder.present()}
    shared = any(present.get(domain) == "source" for domain in changed)
    return [
        name for name, role in present.items() if ALL in changed or name in changed or (shared and role == "target")
    ]


def _concerns(data_folder: DataFolder, occasion: Occasion, domain: str) -> bool:
    """Whether an occasion may build a domain that has not changed."""
    known = ALL in occasion.changed or data_folder.store.is_published("raw/ratings", domain)
    return known and _at_rest(data_folder, domain)


def _at_rest(data_folder: DataFolder, domain: str) -> bool:
    """Whether nobody has touched the raw files for as long as two ticks lie apart, so that no copying goes on.

    Whoever copies a file cannot set this time back.
    """
    rest = data_folder.settings.automation.interval
    return all(time.time() - path.stat().st_ctime >= rest for path in _files(data_folder, domain))


def _files(data_folder: DataFolder, domain: str) -> list[Path]:
    """The raw files of a domain at hand."""
    return [data_folder.raw_file(domain, kind) for kind in KINDS]


def _look(data_folder: DataFolder, domain: str) -> str:
    """A digest of what shows of a domain without reading it: its files' names, sizes and times, and its settings.

    The change time too, since it alone tells another file of the same size whose time was kept.
    """
    shown = []
    for path in _files(data_folder, domain):
        status = path.stat()
        shown.append((path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return _digest([shown, asdict(data_folder.settings.domain(domain))])


def _refused(data_folder: DataFolder) -> dict[str, str]:
    """Why raw files are not taken, by domain, of those that have not changed since that was found."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = json.loads((data_folder.cache / _REFUSED).read_text(encoding="utf-8"))
        present = data_folder.present()
        return {d: str(why) for d, (look, why) in known.items() if d in present and look == _look(data_folder, d)}
    return {}


def _remember(data_folder: DataFolder, refused: Mapping[str, tuple[str, str]]) -> None:
    """Keep the (look, reason) of what is not taken, for every sensor and schedule."""
    path = data_folder.cache / _REFUSED
    if refused:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, path.with_suffix(f".{os.getpid()}")) as file:
            file.write(json.dumps(refused).encode())
    else:
        path.unlink(missing_ok=True)


def _not_taken(domain: str, refused: Mapping[str, str]) -> str:
    return f"{domain} is not taken: {refused[domain]}"


def _flaw(data_folder: DataFolder, domain: str) -> str | None:
    """Why the raw files cannot be taken, or None; compressed ones are read to their ends."""
    try:
        for path in _files(data_folder, domain):
            if path.suffix == ".gz":
                deque(blocks(path, longest_line=1 << 20), maxlen=0)
    except DataError as error:
        return str(error)
    return None


def _nothing(taken: Sequence[str]) -> str:
    return f"nothing to build of {', '.join(taken)}" if taken else "no new or changed raw files"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
