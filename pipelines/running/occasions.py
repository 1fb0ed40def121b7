"""Occasions: why something is built automatically, and which of its runs can start.

An occasion is a set of domains to bring up to date. The plan (`plan`) decides what is stale. Within an occasion, each
asset of each domain is tried once. So a failed asset waits for another change or another week, and nothing loops. A raw
file that was refused is not built until it changes. `automation` and `jobs` open occasions.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG, WILL_RETRY_TAG

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import asset_key
from pipelines.planner.plan import Stage, plan
from pipelines.planner.step import Ref
from warehouse.artifacts.artifact import digest_of
from warehouse.artifacts.store import ALL
from warehouse.raw.formats import KINDS

OCCASION_TAG = "mmm4rec/occasion"
DOMAINS_TAG = "mmm4rec/domains"
AUTOMATIC_TAG = "mmm4rec/automatic"

REFUSED = "refused.json"
"""Cache file: why the raw files of each domain are refused, with the appearance of those files."""


@dataclass(frozen=True)
class Occasion:
    """Why something is built: a unique name, and the domains that changed (or ALL)."""

    name: str
    changed: tuple[str, ...]

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Self:
        """The occasion for which a run was requested."""
        return cls(run.tags[OCCASION_TAG], tuple(run.tags[DOMAINS_TAG].split(",")))

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its runs."""
        return {AUTOMATIC_TAG: "true", OCCASION_TAG: self.name, DOMAINS_TAG: ",".join(self.changed)}


@dataclass(frozen=True)
class Requested:
    """The runs of an occasion that can start now, and messages that explain why the other stale assets wait."""

    runs: list[dg.RunRequest]
    left: list[str]


def requests(data_folder: DataFolder, occasion: Occasion, instance: dg.DagsterInstance) -> Requested:
    """The runs of an occasion that can start now. Runs that have started are recognised by their tags."""
    tried: set[Ref] = set()
    busy: set[Ref] = set()
    runs = instance.get_runs(dg.RunsFilter(tags={OCCASION_TAG: occasion.name}))
    retried = {run.parent_run_id for run in runs}
    for run in runs:
        if run.run_id in retried:
            continue
        ended = run.is_finished and not (run.is_failure and run.tags.get(WILL_RETRY_TAG) == "true")
        (tried if ended else busy).update(_refs(run))
    # Another occasion may already be building an unchanged domain that this one needs, too: do not build it twice.
    automatic = dg.RunsFilter(tags={AUTOMATIC_TAG: "true"}, statuses=NOT_FINISHED_STATUSES)
    for run in instance.get_runs(automatic):
        if PARTITION_NAME_TAG in run.tags and run.tags[PARTITION_NAME_TAG] not in occasion.changed:
            busy |= _refs(run)
    stages = plan(data_folder, _affected(data_folder, occasion.changed))
    refused = refused_files(data_folder)
    lost: set[Ref] = set()
    left = [not_taken(stage.domain, refused) for stage in stages if stage.domain in refused]
    for stage in stages:
        # Do not build an unchanged domain that is new or is still being copied: it will get its own occasion.
        foreign = stage.partition and stage.domain not in occasion.changed
        if stage.domain in refused or (foreign and not _concerns(data_folder, occasion, stage.domain)):
            lost |= stage.refs
        elif again := [step.key for step in stage.steps if (step.key, stage.domain) in tried]:
            more = f" and {len(again) - 1} more" if len(again) > 1 else ""
            left.append(f"stale, but tried already: {again[0]}{more} of {stage.name}")
    asked = [_request(data_folder, stage, occasion) for stage in ready(data_folder, stages, tried | lost, busy)]
    return Requested(asked, list(dict.fromkeys(left)))


def _refs(run: dg.DagsterRun) -> set[Ref]:
    """The assets that a run was requested for."""
    domain = run.tags.get(PARTITION_NAME_TAG, ALL)
    return {("/".join(key.path), domain) for key in run.asset_selection or ()}


def ready(data_folder: DataFolder, stages: Sequence[Stage], tried: set[Ref], busy: set[Ref]) -> list[Stage]:
    """The stages of a plan that can be built now.

    An asset that was tried and is still stale is given up, with everything that needs it. An asset that needs something
    that is being built, or will be built, comes later. A step that collects comes last, even if other assets are given
    up.
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
        run_key=f"{occasion.name} {digest_of(sorted(stage.refs))}",
        partition_key=stage.partition,
        asset_selection=[asset_key(key) for key in stage.asset_keys(data_folder)],
        tags=occasion.tags,
    )


def _affected(data_folder: DataFolder, changed: Sequence[str]) -> list[str]:
    """The present domains that the changes affect: the changed ones, and all targets if a source has changed."""
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
    """Whether no raw file has changed for at least one interval between ticks, so that no copy is still running."""
    rest = data_folder.settings.automation.interval
    return all(data_folder.raw.at_rest(name, rest) for name in raw_files_of(data_folder, domain))


def raw_files_of(data_folder: DataFolder, domain: str) -> list[str]:
    """The names of a domain's raw files."""
    return [data_folder.raw_file(domain, kind) for kind in KINDS]


def appearance(data_folder: DataFolder, domain: str) -> str:
    """A digest of a domain without reading its files: what shows of them, and its settings."""
    shown = [(name, *data_folder.raw.look(name)) for name in raw_files_of(data_folder, domain)]
    return digest_of([shown, asdict(data_folder.settings.domain(domain))])


def refused_files(data_folder: DataFolder) -> dict[str, str]:
    """The reasons why raw files were refused, by domain, for files that have not changed since then."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = json.loads((data_folder.cache / REFUSED).read_text(encoding="utf-8"))
        present = data_folder.present()
        return {d: str(why) for d, (look, why) in known.items() if d in present and look == appearance(data_folder, d)}
    return {}


def not_taken(domain: str, refused: Mapping[str, str]) -> str:
    """The raw files that are refused, and the reasons."""
    return f"{domain} is not built: {refused[domain]}"
