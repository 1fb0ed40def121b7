"""Layer raw: the files of a category as typed tables, line for line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.raw_files import Kind
from pipelines.planner.asset import step
from pipelines.planner.step import Apart, Job
from warehouse.artifacts.store import Artifact
from warehouse.raw.metadata import ingest_metadata
from warehouse.raw.reviews import ingest_either


@dataclass(frozen=True)
class RawFile:
    """Where a raw file lies. Its bytes are a source."""

    path: Apart[Path]


def _raw_file(kind: Kind) -> Callable[[DataFolder, str], RawFile]:
    return lambda data_folder, domain: RawFile(data_folder.raw_file(domain, kind))


def _bytes_of(kind: Kind) -> Callable[[DataFolder, str, Sequence[Artifact]], Mapping[str, str]]:
    """The sha256 of a domain's raw file, under its name."""

    def sources(data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> dict[str, str]:
        path = data_folder.raw_file(domain, kind)
        return {path.name: data_folder.hashes.sha256(path)}

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
