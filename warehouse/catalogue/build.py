"""Builds warehouse.duckdb, the analysts' catalogue: views over the current artifacts, and tables of their lineage.

It contains no data beyond the Parquet files, so it is never updated: a new file is built, checked by opening it, and
put in the place of the old file. Processes that have the old file open keep it, and its views keep their versions.
"""

# Annotations stay text: DuckDB's Python binding reports leaked types if an annotation that holds one of its types
# outlives the interpreter.
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from warehouse.artifacts.history import Period
from warehouse.artifacts.store import ALL, Artifact, check_domain
from warehouse.catalogue.derived import create_derived, create_macros, sources
from warehouse.catalogue.lineage import Columns, lineage
from warehouse.catalogue.macros import MACROS
from warehouse.catalogue.views import ADDED, CATALOGUE, PARTITION, results, shown
from warehouse.duck import attach, create, execute, identifier, literal, load_sql, pattern, qualified, sql_type, table
from warehouse.errors import DataError
from warehouse.tables import TABLES

__all__ = ["CatalogueSummary", "build_catalogue", "view_name"]


@dataclass(frozen=True)
class CatalogueSummary:
    """A summary of what the catalogue shows."""

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
    periods: Sequence[Period] = (),
    columns: Callable[[Artifact], Columns] = lambda artifact: {},
    apart: Sequence[Artifact] = (),
) -> CatalogueSummary:
    """Write a new DuckDB file over `artifacts`, one for each (key, domain), and check that it opens.

    There is one schema per layer and one view per table, over all domains, with the columns `domain` and `v` (see
    `view_name`). Then come the tables of ``lineage``, and the views and macros of `views` whose underlying views exist.
    All views are lazy: queries do the work, and a build takes seconds whatever the data. A layer that has not been
    built has no views.

    Args:
        artifacts: the artifacts to show, usually `Store.all_current()`.
        out_file: the new file; it must not exist.
        comments: declared tables of other packages, by ``layer/noun/file stem``; their schema and field metadata
            ``comment`` become comments in the catalogue.
        metrics: the metrics of ``reports.metrics`` that ``main.results`` shows; without any, this view does not exist.
        periods: when each version was current, for ``lineage.versions``.
        columns: the source columns of an artifact's main table, for ``lineage.columns``.
        apart: artifacts whose files are not here. ``lineage`` has them, no view shows them, and no view of ``main``
            exists that would be incomplete without them.

    Raises:
        DataError: a file name cannot be the name of a view, a file is missing, or domains disagree about a column.
    """
    if out_file.exists():
        raise DataError(f"{out_file} exists: build the catalogue as a new file, then replace the old file with it")
    declared = TABLES | CATALOGUE | {"main/results": results(metrics)} | dict(comments or {})
    views = _views(artifacts)
    try:
        with create(out_file) as connection:
            for name, rows in lineage(artifacts, periods, columns, apart).items():
                _create_table(connection, name, rows)
            for view in views:
                execute(connection, "catalogue_schema", fragments={"schema": identifier(view.schema)})
                execute(connection, "catalogue_view", fragments=_fragments(view, declared.get(view.key)))
            stored = [f"{view.schema}.{view.name}" for view in views]
            derived = create_derived(connection, stored, metrics, [".".join(name) for name in _names(apart)])
            macros = create_macros(connection, stored)
            _comment(connection, {(view.schema, view.name): view.key for view in views}, declared)
            _comment_macros(connection, macros)
        _check(out_file, stored, [*derived, *macros])
    except duckdb.Error as error:
        raise DataError(
            f"the catalogue cannot be built: {str(error).splitlines()[0]}; "
            "verify the store, or run the domain named here again"
        ) from error
    return CatalogueSummary(len(artifacts), len({a.domain for a in artifacts} - {ALL}), len(views))


def view_name(key: str) -> tuple[str, str]:
    """Schema and view of a table of the store, ``layer/noun/file stem``. The view has the stem if it differs from the
    noun.

    Raises:
        DataError: the stem contains characters that a name in SQL may not have.
    """
    layer, noun, stem = key.split("/")
    name = noun if stem == noun else f"{noun}_{stem}"
    identifier(name)
    return layer, name


def _tables(artifact: Artifact) -> list[tuple[str, str]]:
    """The files that are tables, and the key of each."""
    files = sorted(file for file in artifact.manifest.files if file.endswith(".parquet"))
    return [(file, f"{artifact.key}/{file.removesuffix('.parquet')}") for file in files]


def _names(artifacts: Sequence[Artifact]) -> set[tuple[str, str]]:
    """Schema and name of the views that would show these artifacts."""
    return {view_name(key) for artifact in artifacts for _, key in _tables(artifact)}


def _views(artifacts: Sequence[Artifact]) -> list[_View]:
    found: dict[tuple[str, str, str], list[tuple[Path, Artifact]]] = defaultdict(list)
    for artifact in sorted(artifacts, key=lambda artifact: (artifact.key, artifact.domain)):
        check_domain(artifact.domain)
        for file, key in _tables(artifact):
            found[*view_name(key), key].append((artifact.file(file).absolute(), artifact))
    views = [_View(layer, name, key, tuple(files)) for (layer, name, key), files in sorted(found.items())]
    by_name: dict[tuple[str, str], str] = {}
    for view in views:
        other = by_name.setdefault((view.schema, view.name), view.key)
        if other != view.key:
            raise DataError(
                f"{other} and {view.key} would both be the view {view.schema}.{view.name}: rename one of the files"
            )
    return views


def _fragments(view: _View, declared: pa.Schema | None) -> dict[str, str]:
    """The text for the view's statement: its name, its files, and the domain and version of each file."""
    return {
        "schema": identifier(view.schema),
        "view": identifier(view.name),
        "paths": ", ".join(literal(pattern(path)) for path, _ in view.files),
        "domains": ", ".join(f"{literal(str(path))}: {literal(artifact.domain)}" for path, artifact in view.files),
        "versions": ", ".join(f"{literal(str(path))}: {literal(artifact.version)}" for path, artifact in view.files),
        "more": _more(view, declared),
    }


def _more(view: _View, declared: pa.Schema | None) -> str:
    """Columns that the view has besides those of its files: declared ones that older files lack, and the column of
    `ADDED`."""
    found = [artifact.manifest.files[path.name].columns for path, artifact in view.files]
    known = [{*columns} for columns in found if columns]
    if len(known) < len(found):
        return ""
    missing = [field for field in declared or () if field.name not in set().union(*known)]
    parts = [f"NULL::{sql_type(field.type)} AS {identifier(field.name)}," for field in missing]
    added = ADDED.get(view.key)
    if added and not any(added.needs - columns or added.column.name in columns for columns in known):
        parts.append(load_sql(added.sql))
    return "\n".join(parts)


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
    """Write the declared comments. `keys` maps a view's name to the key of its declaration."""
    views = {(row["schema"], row["name"]) for row in table(connection, "catalogue_views").to_pylist()}
    for row in table(connection, "catalogue_columns").to_pylist():
        schema, name = row["schema"], row["name"]
        key = keys.get((schema, name), f"{schema}/{name}")
        declaration = shown(key, declared[key]) if key in declared else None
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
    """Open the file as an analyst does, read one row of every store table, and bind all derived views and macros."""
    with attach(file) as connection:
        for view in stored:
            execute(connection, "catalogue_probe", fragments={"view": qualified(view)})
        for source in sources(derived):
            execute(connection, "catalogue_bind", fragments={"source": source})
