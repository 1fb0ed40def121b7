"""What the catalogue derives from the store's tables: statistics, quarantined and rejected rows, macros.

A view or macro exists only if the tables that it needs exist. Their SQL is in ``sql/``.
"""

# Annotations stay text: DuckDB's Python binding reports leaked types if an annotation that holds one of its types
# outlives the interpreter.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import duckdb

from warehouse.catalogue.macros import MACROS
from warehouse.catalogue.views import JUDGED, figure
from warehouse.duck import execute, fill, literal, load_sql, qualified

__all__ = ["create_derived", "create_macros", "sources"]

_CORE: Final = {"core.sequences", "core.sequences_items", "core.items", "core.interactions_rejected"}
_VIEWS: Final = {
    "length_distribution": {"core.sequences"},
    "popularity_distribution": {"core.sequences_items"},
    "pictures": {"features.item_images"},
    "domains": _CORE,
}
"""Views of `main`, each with the views that it needs, in an order in which they can be created; sql/<name>.sql holds
the statement of each."""
_RESULTS: Final = _CORE | {"reports.metrics", "reports.metrics_outcomes"}

_MACROS: Final = {
    "unix_seconds": "macro_unix_seconds",
    "history": "macro_history",
    "histories": "macro_histories",
    "upstream": "macro_upstream",
    "downstream": "macro_downstream",
    "impact": "macro_impact",
}
"""The SQL file of each macro. The names are written in full, because the code version looks for them in the code."""


def create_derived(
    connection: duckdb.DuckDBPyConnection,
    stored: Sequence[str],
    metrics: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> list[str]:
    """Create `lineage.place`, and the views of `main` whose tables are all in `stored` (each ``schema.view``).

    `apart` are tables of the store that the catalogue does not show. A view that would have one of them as a part does
    not exist.

    Returns the names of all of them. `results` has the `metrics` as columns; without metrics, this view does not exist.
    """
    made = []
    for name, needed in _VIEWS.items():
        if needed <= set(stored):
            execute(connection, name)
            made.append(name)
    if metrics and set(stored) >= _RESULTS:
        columns = ", ".join(literal(figure(model, metric)) for model in JUDGED for metric in metrics)
        execute(connection, "results", fragments={"figures": columns})
        made.append("results")
    for name, parts_of in (("quarantine", _quarantine), ("rejected", _rejected), ("coverage", _coverage)):
        parts = list(parts_of(stored))
        if parts and {*parts} == {*parts_of([*stored, *apart])}:
            execute(connection, name, fragments={"parts": "UNION ALL\n".join(parts)})
            made.append(name)
    execute(connection, "place")
    return [*(f"main.{name}" for name in made), "lineage.place"]


def create_macros(connection: duckdb.DuckDBPyConnection, stored: Sequence[str]) -> list[str]:
    """Create the macros whose views are all in `stored`. Returns their names, each ``schema.macro``."""
    made = []
    for key, macro in MACROS.items():
        if macro.needs <= set(stored):
            execute(connection, _MACROS[key.split("/")[1]])
            made.append(key.replace("/", "."))
    return made


def sources(names: Sequence[str]) -> Iterator[str]:
    """What can follow FROM: the views in `names`, and the table macros with NULL as every argument."""
    for name in names:
        macro = MACROS.get(name.replace(".", "/"))
        if macro is None:
            yield name
        elif macro.columns.names:
            yield f"{name}({', '.join('NULL' for _ in macro.parameters)})"


def _quarantine(stored: Sequence[str]) -> Iterator[str]:
    for view in stored:
        schema, name = view.split(".")
        if schema == "raw" and name.endswith("_quarantine"):
            file = literal(name.removesuffix("_quarantine"))
            yield fill("quarantine_lines", {"file": file, "quarantine": qualified(view)})


def _rejected(stored: Sequence[str]) -> Iterator[str]:
    if any(_quarantine(stored)):
        yield load_sql("rejected_lines")
    for view in stored:
        if view.endswith("_rejected"):
            key = literal(view.removesuffix("_rejected").replace(".", "/"))
            yield fill("rejected_rows", {"key": key, "rejected": qualified(view)})
    if "core.sequences" in stored:
        yield load_sql("rejected_by_core")
    if "core.items" in stored:
        yield load_sql("rejected_prices")


def _coverage(stored: Sequence[str]) -> Iterator[str]:
    if {"core.sequences_items", "core.items"} <= set(stored):
        yield load_sql("coverage_metadata")
    if "features.item_images" in stored:
        yield load_sql("coverage_pictures")
    for view, what in (("features.text_embeddings", "text_vector"), ("features.image_embeddings", "picture_vector")):
        if view in stored:
            yield fill("coverage_vectors", {"what": literal(what), "vectors": view})
