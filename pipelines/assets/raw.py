"""Layer raw: the files of a category as typed tables, line for line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.raw_folder import Kind
from pipelines.settings import House
from pipelines.step import Job, step
from warehouse.metadata import ingest_metadata
from warehouse.reviews import ingest_either
from warehouse.store import Artifact


def raw_file(
    kind: Kind,
) -> Callable[[House, str, Sequence[Artifact]], Mapping[str, str]]:
    """The sha256 of a domain's raw file, under its name."""

    def sources(house: House, domain: str, inputs: Sequence[Artifact]) -> dict[str, str]:
        path = house.raw_file(domain, kind)
        return {path.name: house.hashes.sha256(path)}

    return sources


@step("raw/ratings", "warehouse.reviews", sources=raw_file("ratings"), kinds=["duckdb", "parquet"])
def ratings(job: Job) -> Any:
    """Who rated what and when, one row a readable line; what cannot be read is in quarantine."""
    return ingest_either(job.house.raw_file(job.domain, "ratings"), job.out, job.progress)


@step("raw/metadata", "warehouse.metadata", sources=raw_file("metadata"), kinds=["python", "parquet"])
def metadata(job: Job) -> Any:
    """Products as the shop describes them, one row a readable line; what cannot be read is in quarantine."""
    return ingest_metadata(job.house.raw_file(job.domain, "metadata"), job.out, job.progress)
