"""Layer raw: the files of a category as typed tables, line by line, whatever their format."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import Apart, Job, step
from warehouse.artifacts.store import Artifact
from warehouse.raw.formats import Kind, RawFormat, format_of


@dataclass(frozen=True)
class RawFile:
    """A raw file, and its format.

    Its bytes are a source: `opened` is told their sha256, and gives a path. The code of the reader for its format is
    part of the code version.
    """

    name: Apart[str]
    opened: Apart[Callable[[str], AbstractContextManager[Path]]]
    format: Apart[RawFormat]


def _raw_file(kind: Kind) -> Callable[[DataFolder, str], RawFile]:
    def parameters(data_folder: DataFolder, domain: str) -> RawFile:
        name = data_folder.raw_file(domain, kind)
        return RawFile(name, lambda sha256: data_folder.raw.opened(name, sha256), format_of(kind, name))

    return parameters


def _reader(kind: Kind) -> Callable[[DataFolder, str], list[str]]:
    """The reader of a domain's raw file: the one for the format in use."""
    return lambda data_folder, domain: [_raw_file(kind)(data_folder, domain).format.reader]


def _bytes_of(kind: Kind) -> Callable[[DataFolder, str, Sequence[Artifact]], Mapping[str, str]]:
    """The sha256 of a domain's raw file, by file name."""

    def sources(data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> dict[str, str]:
        name = data_folder.raw_file(domain, kind)
        return {name: data_folder.raw.sha256(name)}

    return sources


def _read(job: Job[RawFile]) -> Any:
    file = job.parameters
    with file.opened(job.sources[file.name]) as path:
        return file.format.read(path, job.out, job.progress)


@step(
    "raw/ratings",
    "warehouse",
    sources=_bytes_of("ratings"),
    parameters=_raw_file("ratings"),
    implementations=_reader("ratings"),
    kinds=["duckdb", "parquet"],
)
def ratings(job: Job[RawFile]) -> Any:
    """Who rated which item and when: one row per readable line. Unreadable lines go to quarantine."""
    return _read(job)


@step(
    "raw/metadata",
    "warehouse",
    sources=_bytes_of("metadata"),
    parameters=_raw_file("metadata"),
    implementations=_reader("metadata"),
    kinds=["python", "parquet"],
)
def metadata(job: Job[RawFile]) -> Any:
    """The products as the shop describes them: one row per readable line. Unreadable lines go to quarantine."""
    return _read(job)
