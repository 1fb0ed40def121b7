"""The data dictionary, docs/data_dictionary.md: every table, view and macro of the catalogue, as declared.

``python -m pipelines.dictionary`` prints it, and `make docs` writes it. It reads only declarations, so it needs no
data.
"""

import sys
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.metrics import shown as shown_metrics
from mmm4rec.tables import TABLES as MODEL_TABLES
from warehouse.catalogue.build import view_name
from warehouse.catalogue.macros import MACROS, Macro
from warehouse.catalogue.questions import examples
from warehouse.catalogue.views import CATALOGUE, PARTITION, results
from warehouse.catalogue.views import shown as shown_columns
from warehouse.duck import sql_type
from warehouse.tables import TABLES as CORE_TABLES

__all__ = ["dictionary"]

_LAYERS: Final = {
    "raw": "The raw files as tables, line by line, unchanged.",
    "core": "Cleaned items, distinct interactions, and the sequences of the k-core.",
    "features": "Texts, pictures and vectors of the items.",
    "models": "The training of the models. Their weights are safetensors files in the same folders as these tables.",
    "reports": "The metrics and the recommendations of the models.",
    "main": "Statistics, results, and what was left out. Each query computes them from the other layers.",
    "lineage": "What each artifact was made from: the manifests of all artifacts as tables.",
}

_HEAD: Final = f"""\
# Data dictionary

This page lists what `warehouse.duckdb` shows. `make docs` writes it from the declarations in the code; change it there.
[The catalogue](catalogue.md) explains how to query it.

A view of the layers `raw` to `reports` shows one Parquet table for the current versions of all domains. In addition to
the columns below, it has `domain` ({PARTITION["domain"].lower()}) and `v` ({PARTITION["v"].lower()}). Its key is unique
within a domain. Columns marked "null" can be null; the others are never null.
"""


def dictionary() -> str:
    """The page in Markdown."""
    return "\n".join([_HEAD, *_tables(), *_macros(), *_examples()])


def _tables() -> Iterator[str]:
    shown = {
        view_name(key): (key, shown_columns(key, schema))
        for key, schema in (CORE_TABLES | FEATURE_TABLES | MODEL_TABLES).items()
    }
    made = CATALOGUE | {"main/results": results([metric.label for metric in shown_metrics()])}
    shown |= {(key.split("/")[0], key.split("/")[1]): ("", schema) for key, schema in made.items()}
    for layer, meaning in _LAYERS.items():
        yield f"## {layer}\n\n{meaning}\n"
        for (schema, name), (key, columns) in sorted(shown.items()):
            if schema == layer:
                layer_noun, _, stem = key.rpartition("/")
                place = f" Files: `{layer_noun}/domain=*/v=*/{stem}.parquet`." if key else ""
                yield f"### {schema}.{name}\n\n{_comment(columns)}.{place}\n"
                yield _columns(columns)


def _macros() -> Iterator[str]:
    yield "## Macros\n\nA macro is a query with parameters. A parameter that has a default can be left out.\n"
    for key, macro in MACROS.items():
        yield f"### {key.replace('/', '.')}({', '.join(macro.parameters)})\n\n{_comment(macro.columns)}.\n"
        yield _parameters(macro)
        if macro.columns.names:
            yield _columns(macro.columns)


def _examples() -> Iterator[str]:
    yield "## Example queries\n\n`mmm4rec sql --example NAME` runs one. They are in `warehouse/catalogue/examples/`.\n"
    yield _grid(["name", "question"], [[f"`{found.name}`", found.question] for found in examples()])


def _comment(schema: pa.Schema) -> str:
    comment: str = schema.metadata[b"comment"].decode()
    return comment


def _columns(schema: pa.Schema) -> str:
    rows = [
        [f"`{field.name}`", sql_type(field.type), "null" if field.nullable else "", field.metadata[b"comment"].decode()]
        for field in schema
    ]
    return _grid(["column", "type", "", "meaning"], rows)


def _parameters(macro: Macro) -> str:
    return _grid(["parameter", "meaning"], [[f"`{name}`", meaning] for name, meaning in macro.parameters.items()])


def _grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(dictionary())
