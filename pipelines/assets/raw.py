"""Layer raw: the files of a category as typed tables, line for line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.raw_folder import Kind
from pipelines.settings import House
from pipelines.step import Apart, Job, step
from warehouse.metadata import ingest_metadata
from warehouse.reviews import ingest_either
from warehouse.store import Artifact


@dataclass(frozen=True)
class RawFile:
    """Where a raw file lies. Its bytes are a source."""

    path: Apart[Path]


def _raw_file(kind: Kind) -> Callable[[House, str], RawFile]:
    return lambda house, domain: RawFile(house.raw_file(domain, kind))


def _bytes_of(kind: Kind) -> Callable[[House, str, Sequence[Artifact]], Mapping[str, str]]:
    """The sha256 of a domain's raw file, under its name."""

    def sources(house: House, domain: str, inputs: Sequence[Artifact]) -> dict[str, str]:
        path = house.raw_file(domain, kind)
        return {path.name: house.hashes.sha256(path)}

    return sources


@step(
    "raw/ratings",
    "warehouse",
    sources=_bytes_of("ratings"),
    parameters=_raw_file("ratings"),
    kinds=["duckdb", "parquet"],
)
def ratings(job: Job[RawFile]) -> Any:
    """Who rated what and when, one row a readable line; what cannot be read is in quarantine."""
    return ingest_either(job.parameters.path, job.out, job.progress)


@step(
    "raw/metadata",
    "warehouse",
    sources=_bytes_of("metadata"),
    parameters=_raw_file("metadata"),
    kinds=["python", "parquet"],
)
def metadata(job: Job[RawFile]) -> Any:
    """Products as the shop describes them, one row a readable line; what cannot be read is in quarantine."""
    return ingest_metadata(job.parameters.path, job.out, job.progress)
