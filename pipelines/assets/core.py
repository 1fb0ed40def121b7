"""Layer core: clean items, distinct interactions, and the sequences that models learn from."""

from typing import Any

from pipelines.step import Job, step
from warehouse.interactions import build_interactions
from warehouse.items import build_items
from warehouse.sequences import build_sequences


@step("core/items", build_items, upstream=["raw/metadata"], kinds=["duckdb", "parquet"])
def items(job: Job) -> Any:
    """One row an item: duplicate ids resolved, markup removed from the text, the raw title kept."""
    return build_items(job.table("raw/metadata"), job.out)


@step("core/interactions", build_interactions, upstream=["raw/ratings", "core/items"], kinds=["duckdb", "parquet"])
def interactions(job: Job) -> Any:
    """Distinct ratings of items that have metadata."""
    return build_interactions(job.table("raw/ratings"), job.table("core/items"), job.out)


@step(
    "core/sequences",
    build_sequences,
    upstream=["core/interactions"],
    parameters=lambda house, domain: {"k": house.settings.domain(domain).k},
    kinds=["duckdb", "parquet"],
)
def sequences(job: Job) -> Any:
    """The k-core, each user's interactions in order of (time, line), split leave-one-out."""
    return build_sequences(job.table("core/interactions"), job.out, k=job.house.settings.domain(job.domain).k)
