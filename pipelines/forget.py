"""Forgetting a domain: it has no current versions, no Dagster partition and no place in the catalogue any more.

Raw files are never touched. The next garbage collection removes versions, mapped copies and states of trainings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import DOMAINS
from pipelines.planner.plan import plan
from pipelines.running import runs
from warehouse.artifacts.lineage import named
from warehouse.artifacts.store import ALL

__all__ = ["Forgotten", "check", "forget", "why_it_comes_back"]


@dataclass(frozen=True)
class Forgotten:
    """The result: versions that were current, versions that a pin protects, and the outcome of the rebuild."""

    versions: Sequence[str]
    pinned: Sequence[str]
    outcomes: Sequence[runs.StageResult]


def check(data_folder: DataFolder, domain: str, instance: dg.DagsterInstance) -> None:
    """Raise `SettingsError` unless the settings, the store or Dagster know the domain."""
    built = {of for _, of in data_folder.store.pointed()} - {ALL}
    if domain not in built and domain not in instance.get_dynamic_partitions(str(DOMAINS.name)):
        data_folder.settings.domain(domain)


def why_it_comes_back(data_folder: DataFolder, domain: str) -> str | None:
    """The reason why the domain will come back, and what to do about it; None if it stays forgotten."""
    if domain in data_folder.present():
        return (
            f"the raw files of {domain} are still in {data_folder.raw}: the next `mmm4rec run` builds it again, "
            "unless you move them away"
        )
    if domain in data_folder.settings.domains:
        return f"domains.yaml names {domain}: `mmm4rec domains` lists it until you remove it there"
    return None


def forget(data_folder: DataFolder, domain: str, instance: dg.DagsterInstance) -> Forgotten:
    """Forget a domain, and build the catalogue and the report without it."""
    versions = data_folder.store.forget(domain)
    instance.delete_dynamic_partition(str(DOMAINS.name), domain)
    shown = ["warehouse/catalogue"]
    if any(artifact.key == "reports/metrics" for artifact in data_folder.store.all_current()):
        shown.append("warehouse/report")
    else:
        data_folder.report.unlink(missing_ok=True)  # there is nothing left to report
    outcomes = list(runs.execute(data_folder, plan(data_folder, [], shown), instance))
    pinned = [named(version) for version in data_folder.store.marked("pin") if version[1] == domain]
    return Forgotten([named(version) for version in versions], pinned, outcomes)
