"""The automation that Dagster's daemon runs: two sensors and two schedules.

`raw_files` detects new and changed raw files, and `rebuild` runs weekly. Each opens an occasion (`occasions`) and
requests the runs that can start. `next_stages` requests the runs that become possible when those end.

`automation: {enabled: true}` in domains.yaml, or the switches in the UI, turn this on. `next_stages` is always on: it
only continues work that somebody has started. Invalid settings do not stop the ticks: a tick reports them, and the next
tick checks again.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.settings import AutomationSettings
from pipelines.errors import EXPECTED, SettingsError
from pipelines.planner.asset import DOMAINS
from pipelines.running.jobs import housekeeping
from pipelines.running.occasions import (
    AUTOMATIC_TAG,
    REFUSED,
    Occasion,
    appearance,
    not_taken,
    raw_files_of,
    refused_files,
    requests,
)
from warehouse.artifacts.artifact import digest_of
from warehouse.artifacts.durable import replacing
from warehouse.artifacts.store import ALL
from warehouse.errors import DataError
from warehouse.raw.lines import blocks

_CHECKING = 20
"""Seconds of a tick after which it starts to read no further file. Dagster stops a tick after 60 seconds."""
_TOGETHER = 16
"""Most domains of one occasion. Their names become a tag, and databases limit the length of indexed tags."""
_OVERLAP = timedelta(minutes=1)
"""Runs that ended up to this long before the last tick are looked at again: the database's clock may differ."""


def _partitions(asked: Iterable[dg.RunRequest]) -> list[Any]:
    """Requests to add the partitions of these runs, which may be new."""
    names = sorted({request.partition_key for request in asked if request.partition_key})
    return [DOMAINS.build_add_request(names)] if names else []


def raw_files(context: dg.SensorEvaluationContext, data_folder: dg.ResourceParam[DataFolder]) -> dg.SensorResult:
    """Detects new categories and changed raw files, and requests runs for everything that depends on them.

    Files are accepted if nothing that shows of them changed between two ticks and their gzip streams are complete. For
    each domain, the cursor contains the progress ("seen" or "taken"), a digest of the files' appearance, and the time
    when that was first seen. So a change back to an earlier state is a new occasion, but a tick that is evaluated twice
    is the same occasion.
    """
    if unusable := _unusable(data_folder):
        return dg.SensorResult(skip_reason=unusable, cursor=context.cursor)
    before = json.loads(context.cursor or "{}")
    after: dict[str, tuple[str, str, int]] = {}
    refused = refused_files(data_folder)
    taken = []
    deadline = time.monotonic() + _CHECKING
    for domain in data_folder.present():
        look = appearance(data_folder, domain)
        state, known, since = [*before.get(domain, ("seen", "")), 0][:3]  # older cursors have no time
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
    said = [not_taken(domain, refused) for domain in refused]
    said += [f"left out {name!r}: {reason}" for name, reason in data_folder.left_out().items()]
    for line in said:
        context.log.warning(line)
    asked = []
    for first in range(0, len(taken), _TOGETHER):
        changed = tuple(taken[first : first + _TOGETHER])
        name = f"raw files {digest_of([(domain, *after[domain]) for domain in changed])}"
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
    """Continues after a run that `raw_files`, `rebuild` or the job `everything` requested: requests the runs that its
    result makes possible."""
    if unusable := _unusable(data_folder):
        return dg.SensorResult(skip_reason=unusable, cursor=context.cursor)
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
        skip_reason=None if asked else "; ".join(left) or "no run that this waits for has ended",
        dynamic_partitions_requests=_partitions(asked),
        cursor=now.isoformat(),
    )


def rebuild(
    context: dg.ScheduleEvaluationContext, data_folder: dg.ResourceParam[DataFolder]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests runs for everything that is stale: code, settings or encoders changed, damage, or an earlier failure."""
    if unusable := _unusable(data_folder):
        return dg.SkipReason(unusable)
    occasion = Occasion(f"rebuild {context.scheduled_execution_time:%Y-%m-%d %H:%M}", (ALL,))
    answer = requests(data_folder, occasion, context.instance)
    for line in answer.left:
        context.log.warning(line)
    partitions = [request.partition_key for request in answer.runs if request.partition_key]
    context.instance.add_dynamic_partitions(str(DOMAINS.name), partitions)
    return answer.runs or dg.SkipReason("; ".join(answer.left) or "everything is up to date")


def keep_house(
    context: dg.ScheduleEvaluationContext, data_folder: dg.ResourceParam[DataFolder]
) -> dg.RunRequest | dg.SkipReason:
    """Requests a run of the job `housekeeping`."""
    unusable = _unusable(data_folder)
    return dg.SkipReason(unusable) if unusable else dg.RunRequest()


def sensors(settings: AutomationSettings) -> list[dg.SensorDefinition]:
    """The sensors `raw_files` and `next_stages`. The second continues work that somebody has started."""
    of_all = dg.AssetSelection.all()
    switch = dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED
    pace = settings.interval
    always = dg.DefaultSensorStatus.RUNNING
    return [
        dg.sensor(
            asset_selection=of_all,
            minimum_interval_seconds=pace,
            default_status=switch,
            description="Detects new categories and changed raw files, and requests runs for everything that depends "
            "on them. A file is taken when it has not changed between two ticks.",
        )(raw_files),
        dg.sensor(
            asset_selection=of_all,
            minimum_interval_seconds=pace,
            default_status=always,
            description="Continues what raw_files, rebuild or the job everything has begun: requests the runs that "
            "have become possible.",
        )(next_stages),
    ]


def schedules(settings: AutomationSettings) -> list[dg.ScheduleDefinition]:
    """The schedules `rebuild` and `housekeeping`, at the times in the settings."""
    switch = dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED
    weekly = dg.schedule(
        name="rebuild",
        cron_schedule=settings.rebuild,
        target=dg.AssetSelection.all(),
        default_status=switch,
        description="Requests runs for everything that is stale: code, settings or encoders have changed, or "
        "something is damaged or has failed before.",
    )
    kept = dg.schedule(
        name="housekeeping",
        cron_schedule=settings.housekeeping,
        job=housekeeping,
        default_status=switch,
        description="Requests a run of the job housekeeping, which collects garbage and verifies hashes.",
    )
    return [weekly(rebuild), kept(keep_house)]


def switched_on(data_folder: DataFolder) -> AutomationSettings:
    """The automation settings, or the defaults if the settings are invalid.

    So Dagster can load its definitions whatever domains.yaml contains. Every tick reports the error.
    """
    try:
        settings = data_folder.automation
        check_times(data_folder, settings)
    except EXPECTED:
        return AutomationSettings()
    return settings


def check_times(data_folder: DataFolder, settings: AutomationSettings) -> None:
    """Check the times of the schedules.

    Raises:
        SettingsError: a time is not a cron expression.
    """
    for name in ("rebuild", "housekeeping"):
        cron = getattr(settings, name)
        try:
            dg.ScheduleDefinition(name=name, cron_schedule=cron, job_name=name)
        except dg.DagsterInvalidDefinitionError as error:
            raise SettingsError(
                f"{data_folder.settings_file}: automation: {name}: {cron!r} is not a cron expression such as 0 3 * * 0"
            ) from error


def _unusable(data_folder: DataFolder) -> str | None:
    """Why the settings cannot be used, or None."""
    try:
        check_times(data_folder, data_folder.settings.automation)
    except EXPECTED as error:
        return str(error)
    return None


def _remember(data_folder: DataFolder, refused: Mapping[str, tuple[str, str]]) -> None:
    """Store the (appearance, reason) of each refused domain, for every sensor and schedule."""
    path = data_folder.cache / REFUSED
    if refused:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(refused).encode())
    else:
        path.unlink(missing_ok=True)


def _flaw(data_folder: DataFolder, domain: str) -> str | None:
    """Why the raw files cannot be accepted, or None. Compressed files that may be cut are read to the end."""
    try:
        for name in raw_files_of(data_folder, domain):
            if name.endswith(".gz") and data_folder.raw.may_be_cut(name):
                deque(blocks(data_folder.raw_folder / name, longest_line=1 << 20), maxlen=0)
    except DataError as error:
        return str(error)
    return None


def _nothing(taken: Sequence[str]) -> str:
    return f"nothing to build for {', '.join(taken)}" if taken else "no new or changed raw files"
