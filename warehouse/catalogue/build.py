"""warehouse.duckdb, the analysts' catalogue: views over the current version of everything, lineage as tables.

It holds no data that the Parquet files do not hold, so it is never updated: a new file is built, checked by
opening it, and swapped in. Whoever has the old one open keeps it, and views in it keep their versions.
"""

# Annotations that stay text: DuckDB's binding reports its types as leaked where one outlives the interpreter.
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from warehouse.artifacts.manifest import Environment
from warehouse.artifacts.store import ALL, Artifact, check_domain
from warehouse.catalogue.derived import create_derived, create_macros, sources
from warehouse.catalogue.views import CATALOGUE, MACROS, PARTITION, results
from warehouse.duck import attach, create, execute, identifier, literal, pattern, qualified, table
from warehouse.errors import DataError
from warehouse.tables import TABLES

__all__ = ["CatalogueSummary", "build_catalogue", "view_name"]


@dataclass(frozen=True)
class CatalogueSummary:
    """What the catalogue shows."""

    artifacts: int
    domains: int
    views: int


@dataclass(frozen=True)
class _View:
    """One table of the store: its name in SQL, its key among the table declarations, its files."""

    schema: str
    name: str
    key: str
    files: tuple[tuple[Path, Artifact], ...]


def build_catalogue(
    artifacts: Sequence[Artifact],
    out_file: Path,
    comments: Mapping[str, pa.Schema] | None = None,
    metrics: Sequence[str] = (),
) -> CatalogueSummary:
    """Write a new DuckDB file over `artifacts`, one of each (key, domain), and check that it opens.

    A schema a layer; a view a table, over all domains, with the columns `domain` and `v` (see `view_name`). Then
    ``lineage.artifacts``, ``environments``, ``inputs``, ``sources`` and ``files`` as tables, and the views and macros
    that `views` declares, each once the views are there that it needs. All views are lazy: whoever asks pays, and a
    build takes seconds whatever the data. A layer that has not been built has no views.

    Args:
        artifacts: what the views shall show, usually `Store.all_current()`.
        out_file: the new file; it must not exist.
        comments: declared tables of other packages, by ``layer/noun/file stem``; their schema and field metadata
            ``comment`` become comments in the catalogue.
        metrics: those of ``reports.metrics`` that ``main.results`` shows; without any, there is no such view.

    Raises:
        DataError: a file's name cannot name a view, a file is missing, or domains disagree about a
        column.
    """
    if out_file.exists():
        raise DataError(f"{out_file} exists: build the catalogue as a new file, then put it in the old one's place")
    declared = TABLES | CATALOGUE | {"main/results": results(metrics)} | dict(comments or {})
    views = _views(artifacts)
    try:
        with create(out_file) as connection:
            for name, rows in _lineage(artifacts).items():
                _create_table(connection, name, rows)
            for view in views:
                execute(connection, "catalogue_schema", fragments={"schema": identifier(view.schema)})
                execute(connection, "catalogue_view", fragments=_fragments(view))
            stored = [f"{view.schema}.{view.name}" for view in views]
            derived = create_derived(connection, stored, metrics)
            macros = create_macros(connection, stored)
            _comment(connection, {(view.schema, view.name): view.key for view in views}, declared)
            _comment_macros(connection, macros)
        _check(out_file, stored, [*derived, *macros])
    except duckdb.Error as error:
        raise DataError(
            f"the catalogue cannot be built: {str(error).splitlines()[0]}; "
            "verify the store, or run again the domain that this names"
        ) from error
    return CatalogueSummary(len(artifacts), len({a.domain for a in artifacts} - {ALL}), len(views))


def view_name(key: str) -> tuple[str, str]:
    """Schema and view of a table of the store, ``layer/noun/file stem``: the stem counts where it is not the noun.

    Raises:
        DataError: the stem holds what a name in SQL may not.
    """
    layer, noun, stem = key.split("/")
    name = noun if stem == noun else f"{noun}_{stem}"
    identifier(name)
    return layer, name


def _views(artifacts: Sequence[Artifact]) -> list[_View]:
    found: dict[tuple[str, str, str], list[tuple[Path, Artifact]]] = defaultdict(list)
    for artifact in sorted(artifacts, key=lambda artifact: (artifact.key, artifact.domain)):
        check_domain(artifact.domain)
        for file in sorted(artifact.manifest.files):
            if file.endswith(".parquet"):
                table_key = f"{artifact.key}/{file.removesuffix('.parquet')}"
                found[*view_name(table_key), table_key].append((artifact.path.absolute() / file, artifact))
    views = [_View(layer, name, key, tuple(files)) for (layer, name, key), files in sorted(found.items())]
    by_name: dict[tuple[str, str], str] = {}
    for view in views:
        other = by_name.setdefault((view.schema, view.name), view.key)
        if other != view.key:
            raise DataError(
                f"{other} and {view.key} would both be the view {view.schema}.{view.name}: rename one of the files"
            )
    return views


def _fragments(view: _View) -> dict[str, str]:
    """What stands in the view's statement: its name, its files, and of which domain and version each of them is."""
    return {
        "schema": identifier(view.schema),
        "view": identifier(view.name),
        "paths": ", ".join(literal(pattern(path)) for path, _ in view.files),
        "domains": ", ".join(f"{literal(str(path))}: {literal(artifact.domain)}" for path, artifact in view.files),
        "versions": ", ".join(f"{literal(str(path))}: {literal(artifact.version)}" for path, artifact in view.files),
    }


def _lineage(artifacts: Sequence[Artifact]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CATALOGUE if name.startswith("lineage/")}
    for artifact in sorted(artifacts, key=lambda artifact: (artifact.key, artifact.domain)):
        manifest = artifact.manifest
        which = {"key": artifact.key, "domain": artifact.domain, "version": artifact.version}
        rows["lineage/artifacts"].append(
            which
            | {name: getattr(manifest, name) for name in ("created", "recipe", "code_version")}
            | {name: json.dumps(getattr(manifest, name), sort_keys=True) for name in ("parameters", "summary")}
            | {"path": str(artifact.path.absolute())}
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
    return rows


def _environment(environment: Environment | None) -> dict[str, Any]:
    """What is known of an environment, a column a package; a column that is left out is null."""
    if environment is None:
        return {}
    packages = {name.replace("-", "_"): version for name, version in environment.packages.items()}
    return packages | msgspec.structs.asdict(environment)


def _create_table(connection: duckdb.DuckDBPyConnection, name: str, rows: list[dict[str, Any]]) -> None:
    schema, noun = name.split("/")
    connection.register("catalogue_rows", pa.Table.from_pylist(rows, CATALOGUE[name]))
    execute(connection, "catalogue_schema", fragments={"schema": identifier(schema)})
    names = {"schema": identifier(schema), "table": identifier(noun)}
    execute(connection, "catalogue_table", fragments=names)
    connection.unregister("catalogue_rows")


def _comment(
    connection: duckdb.DuckDBPyConnection,
    keys: Mapping[tuple[str, str], str],
    declared: Mapping[str, pa.Schema],
) -> None:
    """Comment what is declared. `keys` leads from a view's name to its declaration."""
    views = {(row["schema"], row["name"]) for row in table(connection, "catalogue_views").to_pylist()}
    for row in table(connection, "catalogue_columns").to_pylist():
        schema, name = row["schema"], row["name"]
        declaration = declared.get(keys.get((schema, name), f"{schema}/{name}"))
        quoted = f"{identifier(schema)}.{identifier(name)}"
        kind = "VIEW" if (schema, name) in views else "TABLE"
        for target, comment in _comments(declaration, row["columns"]):
            fragments = (
                {"kind": "COLUMN", "name": f"{quoted}.{identifier(target)}"}
                if target
                else {"kind": kind, "name": quoted}
            )
            execute(connection, "catalogue_comment", fragments=fragments | {"comment": literal(comment)})


def _comments(declaration: pa.Schema | None, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(column, comment) pairs; the empty column name stands for the table itself."""
    if declaration is not None and declaration.metadata and b"comment" in declaration.metadata:
        yield "", declaration.metadata[b"comment"].decode()
    for column in columns:
        if declaration is not None and column in declaration.names:
            comment = (declaration.field(column).metadata or {}).get(b"comment")
            if comment:
                yield column, comment.decode()
        elif column in PARTITION:
            yield column, PARTITION[column]


def _comment_macros(connection: duckdb.DuckDBPyConnection, macros: Sequence[str]) -> None:
    for name in macros:
        macro = MACROS[name.replace(".", "/")]
        kind = "MACRO TABLE" if macro.columns.names else "MACRO"
        fragments = {"kind": kind, "name": name, "comment": literal(macro.comment)}
        execute(connection, "catalogue_comment", fragments=fragments)


def _check(file: Path, stored: Sequence[str], derived: Sequence[str]) -> None:
    """Open the file as an analyst does, read a row of every table of the store, and bind all that is made of them."""
    with attach(file) as connection:
        for view in stored:
            execute(connection, "catalogue_probe", fragments={"view": qualified(view)})
        for source in sources(derived):
            execute(connection, "catalogue_bind", fragments={"source": source})
