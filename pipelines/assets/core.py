"""Layer core: clean items, distinct interactions, and the sequences that models learn from.

A build is imported only where it runs, because importing all of them takes longer than a run with nothing to do should
take.
"""

from dataclasses import dataclass
from typing import Any

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import Job, Nothing, step
from warehouse.core.settings import SplitRule, Wanted


@step("core/items", "warehouse", upstream=["raw/metadata"], kinds=["duckdb", "parquet"])
def items(job: Job[Nothing]) -> Any:
    """One row per item: duplicate ids are resolved, markup is removed from the text, and the raw title is kept."""
    from warehouse.core.items import build_items

    return build_items(job.table("raw/metadata"), job.out)


@step(
    "core/interactions",
    "warehouse",
    upstream=["raw/ratings", "core/items"],
    parameters=lambda data_folder, domain: data_folder.settings.domain(domain).wanted,
    kinds=["duckdb", "parquet"],
)
def interactions(job: Job[Wanted]) -> Any:
    """Distinct ratings of items that have metadata, filtered by the settings of the domain."""
    from warehouse.core.interactions import build_interactions

    return build_interactions(job.table("raw/ratings"), job.table("core/items"), job.out, job.parameters)


@dataclass(frozen=True)
class SequencesOf:
    """How sequences are made."""

    k: int
    split: SplitRule
    max_length: int | None


def _sequences(data_folder: DataFolder, domain: str) -> SequencesOf:
    settings = data_folder.settings.domain(domain)
    return SequencesOf(settings.k, settings.split_rule, settings.max_length)


@step(
    "core/sequences",
    "warehouse",
    upstream=["core/interactions"],
    parameters=_sequences,
    kinds=["duckdb", "parquet"],
)
def sequences(job: Job[SequencesOf]) -> Any:
    """The k-core: each user's interactions, ordered by (time, line) and split for training, validation and testing."""
    from warehouse.core.sequences import build_sequences

    of = job.parameters
    return build_sequences(job.table("core/interactions"), job.out, of.k, of.split, of.max_length)
