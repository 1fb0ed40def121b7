"""The rows of the tables of ``lineage``, from manifests and histories: one row per artifact, file, input or version.

`warehouse.catalogue.views` describes the columns; the graph of a store is in `warehouse.artifacts.lineage`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from warehouse.artifacts.artifact import Artifact
from warehouse.artifacts.history import Period
from warehouse.artifacts.manifest import Environment

__all__ = ["Columns", "lineage"]

Columns = Mapping[str, Sequence[tuple[str, str]]]
"""For each column, the columns that it was made from, as (layer/noun, column)."""

Rows = list[dict[str, Any]]


def lineage(
    artifacts: Sequence[Artifact],
    periods: Sequence[Period],
    columns: Callable[[Artifact], Columns],
    apart: Sequence[Artifact] = (),
) -> dict[str, Rows]:
    """The rows of every table, by the table's key ``lineage/name``. Views show `artifacts`, and not those `apart`."""
    shown = {artifact.named for artifact in artifacts}
    rows: dict[str, Rows] = {f"lineage/{name}": [] for name in ("artifacts", "environments", "inputs", "sources")}
    rows |= {"lineage/files": [], "lineage/columns": [], "lineage/versions": [_version(period) for period in periods]}
    for artifact in sorted([*artifacts, *apart], key=lambda artifact: (artifact.key, artifact.domain)):
        manifest = artifact.manifest
        which = {"key": artifact.key, "domain": artifact.domain, "version": artifact.version}
        rows["lineage/artifacts"].append(
            which
            | {name: getattr(manifest, name) for name in ("recipe", "code_version")}
            | {name: json.dumps(getattr(manifest, name), sort_keys=True) for name in ("parameters", "summary")}
            | {"path": str(artifact.place.absolute()), "created": _moment(manifest.created)}
            | {"shown": artifact.named in shown}
        )
        rows["lineage/environments"].append(_environment(manifest.environment) | which)
        for read in manifest.made_from:
            rows["lineage/inputs"].append(
                which | {"input_key": read.key, "input_domain": read.domain, "input_version": read.version}
            )
        for source, sha256 in manifest.sources.items():
            rows["lineage/sources"].append(which | {"source": source, "sha256": sha256})
        for name, entry in manifest.files.items():
            rows["lineage/files"].append(
                which | {"name": name, "sha256": entry.sha256, "bytes": entry.bytes, "rows": entry.rows}
            )
        rows["lineage/columns"] += _columns(artifact, columns(artifact))
    return rows


def _environment(environment: Environment | None) -> dict[str, Any]:
    """The known values of an environment, one column per package; a missing column becomes null."""
    if environment is None:
        return {}
    packages = {name.replace("-", "_"): version for name, version in environment.packages.items()}
    return packages | msgspec.structs.asdict(environment)


def _version(period: Period) -> dict[str, Any]:
    return {
        **{name: getattr(period, name) for name in ("key", "domain", "version", "rows")},
        "since": _moment(period.since),
        "until": period.until and _moment(period.until),
        "summary": json.dumps(period.summary, sort_keys=True),
    }


def _columns(artifact: Artifact, columns: Columns) -> Iterator[dict[str, str]]:
    for column, made_from in columns.items():
        for input_key, input_column in made_from:
            which = {"key": artifact.key, "domain": artifact.domain}
            yield which | {"column": column, "input_key": input_key, "input_column": input_column}


def _moment(text: str) -> datetime | None:
    """A moment of a manifest, in UTC; None if the text is not a moment, because a store may come from elsewhere."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError):
        return None
