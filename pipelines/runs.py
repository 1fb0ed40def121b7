"""Runs: what is stale, and building it through Dagster.

`plan` compares recipes and runs nothing. `execute` starts Dagster runs in this process, one for each domain and
stage, over the same instance and assets as the UI, so both leave the same trace.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from features.errors import FeatureError
from mmm4rec.errors import ModelError
from pipelines import event_log
from pipelines.definitions import defs
from pipelines.settings import House
from pipelines.step import DOMAINS, STEPS, Ref, Step, upstream_first
from warehouse.errors import WarehouseError
from warehouse.staging import held
from warehouse.store import ALL

_DATABASES = ("history", "schedules")
"""Folders of Dagster's databases."""
# Dagster prefixes a message with its class; the house's own errors speak for themselves.
_HOUSE_ERROR = re.compile(r"^(warehouse|features|mmm4rec)\.errors\.\w+: ")


@dataclass(frozen=True)
class Stage:
    """Steps of one domain (or of ALL) that one Dagster run builds."""

    domain: str
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The domain, for people."""
        return "all domains" if self.domain == ALL else self.domain

    @property
    def refs(self) -> set[Ref]:
        """What this stage makes."""
        return {(step.key, self.domain) for step in self.steps}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: error messages by asset key, or in `waited_for` the failed input that it was skipped for.

    `warnings` are the checks that failed without stopping anything, with what they found.
    """

    stage: Stage
    run_id: str | None
    errors: dict[str, str]
    warnings: dict[str, str] = field(default_factory=dict)
    waited_for: Ref | None = None


def plan(house: House, domains: Sequence[str], only: Sequence[str] = ()) -> list[Stage]:
    """The stages that bring `domains` up to date, with all they need and all that spans domains; upstream first.

    `only` restricts it to these asset keys. A step is stale if an input is, if its recipe is not the one its current
    version was built by, or if that version is damaged or not the one shown at the top of the data folder. Nothing
    stale: an empty list. A domain without raw files is an error.
    """
    unknown = sorted(set(only) - set(STEPS))
    if unknown:
        raise WarehouseError(f"there is no asset {unknown[0]!r}; known: {', '.join(STEPS)}")
    for domain in domains:
        house.raw_file(domain, "ratings")
        house.raw_file(domain, "metadata")
    stale: dict[Ref, Step] = {}
    for (key, domain), step in _wanted(house, domains, only).items():
        if _is_stale(house, step, domain, stale):
            stale[key, domain] = step
    stages: dict[tuple[int, str], list[Step]] = {}
    for (_, domain), step in stale.items():
        stages.setdefault((_level(step), domain), []).append(step)
    return [Stage(domain, tuple(steps)) for (_, domain), steps in sorted(stages.items(), key=lambda s: s[0])]


@contextmanager
def open_instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, which keeps its databases in `folder`; MMM4REC_DAGSTER must name it."""
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / ".making"
    # Two processes that make the tables of new databases at once would trip over each other.
    with held(folder / ".lock"):
        if making.exists():
            # Whoever made them was killed. Dagster would take the half for the whole and fail ever after.
            for name in _DATABASES:
                shutil.rmtree(folder / name, ignore_errors=True)
        if not any((folder / name).exists() for name in _DATABASES):
            making.touch()
        opened = dg.DagsterInstance.get()
        making.unlink(missing_ok=True)
    with opened as instance:
        yield instance


def execute(house: House, stages: Sequence[Stage], instance: dg.DagsterInstance) -> Iterator[Outcome]:
    """Run the stages in order and say how each ended; one whose inputs failed is skipped, the others go on."""
    job = defs.resolve_implicit_global_asset_job_def()
    failed: set[Ref] = set()
    for stage in stages:
        needed = {r for s in stage.steps if not s.collects for r in s.refs(house, stage.domain)} - stage.refs
        lost = sorted(failed & needed)
        if lost:
            failed |= stage.refs
            yield Outcome(stage, None, {}, waited_for=lost[0])
            continue
        outcome = _run(stage, instance, job)
        failed |= {(key, stage.domain) for key in outcome.errors}
        yield outcome


def unrecorded(
    house: House,
    planned: Sequence[Stage],
    instance: dg.DagsterInstance,
    domains: Sequence[str],
    only: Sequence[str] = (),
) -> list[Stage]:
    """Stages that build nothing: they tell Dagster's event log of what stands in the store.

    `planned` is the plan for these `domains` and `only` these assets; what is not in it is not stale.
    """
    coming = {ref for stage in planned for ref in stage.refs}
    behind: dict[str, list[Step]] = {}
    for key, domain in event_log.unrecorded(house, instance):
        if (key, domain) not in coming and domain in {*domains, ALL} and (not only or key in only):
            behind.setdefault(domain, []).append(STEPS[key])
    return [Stage(domain, tuple(steps)) for domain, steps in sorted(behind.items())]


def survey(house: House) -> list[dict[str, Any]]:
    """A row a domain: role, raw files there or not, counts beside the published ones, how many assets are stale."""
    rows = []
    present = house.present()
    stale = Counter(dict.fromkeys(present, 0))
    for stage in plan(house, present):
        stale[stage.domain] += len(stage.steps)
    for name, domain in sorted(house.settings.domains.items()):
        built = house.store.whole("core/sequences", name)
        counts = built.manifest["summary"] if built else {}
        known = domain.published
        rows.append(
            {
                "domain": name,
                "role": domain.role,
                "raw files": "yes" if name in present else "missing",
                **{count: counts.get(count) for count in ("users", "items", "interactions")},
                "published": f"{known.users} / {known.items} / {known.interactions}" if known else None,
                "stale assets": stale.get(name),
            }
        )
    return rows


def _run(stage: Stage, instance: dg.DagsterInstance, job: dg.JobDefinition) -> Outcome:
    partition = None if stage.domain == ALL else stage.domain
    if partition:
        instance.add_dynamic_partitions(str(DOMAINS.name), [partition])
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[dg.AssetKey(step.key.split("/")) for step in stage.steps],
        raise_on_error=False,
        # The event log keeps everything; the terminal belongs to the progress bars.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    events = result.get_asset_materialization_events()
    built = {"/".join(event.asset_key.path) for event in events if event.asset_key}
    errors = {key: "not reached" for key, _ in sorted(stage.refs) if key not in built}
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        key = str(event.step_key).replace("__", "/", 1)
        if error:
            errors[key] = _HOUSE_ERROR.sub("", (error.cause or error).message.strip())
    warnings = {
        f"{'/'.join(check.asset_key.path)} {check.check_name}": ", ".join(
            f"{name} {value.value}" for name, value in sorted(check.metadata.items())
        )
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    }
    return Outcome(stage, result.run_id, errors, warnings)


def _wanted(house: House, domains: Sequence[str], only: Sequence[str]) -> dict[Ref, Step]:
    """Every step of the domains and of ALL, with whatever those read; upstream first."""
    steps = upstream_first()
    chosen = [step for step in steps if not only or step.key in only]
    wanted = {(step.key, domain) for step in chosen for domain in step.domains(house, domains)}
    pending = [] if only else list(wanted)
    while pending:
        key, domain = pending.pop()
        if not STEPS[key].collects:
            new = set(STEPS[key].refs(house, domain)) - wanted
            wanted |= new
            pending.extend(new)
    order = {step.key: position for position, step in enumerate(steps)}
    return {ref: STEPS[ref[0]] for ref in sorted(wanted, key=lambda ref: (order[ref[0]], ref[1]))}


def _is_stale(house: House, step: Step, domain: str, stale: dict[Ref, Step]) -> bool:
    if (step.collects and stale) or any(ref in stale for ref in step.refs(house, domain)):
        return True
    current = house.store.whole(step.key, domain)
    if current is None or (step.exposed and not house.store.exposes(current, step.exposed)):
        return True
    try:
        recipe = step.recipe(house, domain, step.inputs(house, domain))
        return bool(current.manifest["recipe"] != recipe.digest)
    except (WarehouseError, FeatureError, ModelError):
        # Something it needs is gone: the run of this domain will say what, and the others go on.
        return True


def _level(step: Step) -> int:
    """How often the way down to `step` changes between one domain and all of them."""
    levels = (_level(STEPS[key]) + (STEPS[key].per_domain != step.per_domain) for key in step.upstream)
    return max(levels, default=0)
