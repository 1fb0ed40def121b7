"""Layer core: clean items, distinct interactions, and the sequences that models learn from."""

from typing import Any

from pipelines.settings import House, as_parameters
from pipelines.step import Job, step
from warehouse.interactions import build_interactions
from warehouse.items import build_items
from warehouse.sequences import build_sequences


@step("core/items", "warehouse.items", upstream=["raw/metadata"], kinds=["duckdb", "parquet"])
def items(job: Job) -> Any:
    """One row an item: duplicate ids resolved, markup removed from the text, the raw title kept."""
    return build_items(job.table("raw/metadata"), job.out)


@step(
    "core/interactions",
    "warehouse.interactions",
    upstream=["raw/ratings", "core/items"],
    parameters=lambda house, domain: as_parameters(house.settings.domain(domain).wanted),
    kinds=["duckdb", "parquet"],
)
def interactions(job: Job) -> Any:
    """Distinct ratings of items that have metadata, of those the ones that the domain's settings ask for."""
    wanted = job.house.settings.domain(job.domain).wanted
    return build_interactions(job.table("raw/ratings"), job.table("core/items"), job.out, wanted)


def _sequences(house: House, domain: str) -> dict[str, Any]:
    settings = house.settings.domain(domain)
    split = as_parameters(settings.time_split) if settings.time_split else {}
    return {"k": settings.k, "split": settings.split, "max_length": settings.max_length, **split}


@step(
    "core/sequences",
    "warehouse.sequences",
    upstream=["core/interactions"],
    parameters=_sequences,
    kinds=["duckdb", "parquet"],
)
def sequences(job: Job) -> Any:
    """The k-core, each user's interactions in order of (time, line), split for training, validation and testing."""
    settings = job.house.settings.domain(job.domain)
    return build_sequences(
        job.table("core/interactions"), job.out, settings.k, settings.time_split, settings.max_length
    )
