"""One room writes a table, another reads it: their declarations agree."""

import re

import pyarrow as pa
import pytest

from features import tables as features
from mmm4rec import tables as mmm4rec
from mmm4rec.metrics import shown
from warehouse import tables as warehouse
from warehouse.catalogue.macros import MACROS
from warehouse.catalogue.views import CATALOGUE, results

PRODUCED = warehouse.TABLES | features.TABLES | mmm4rec.TABLES
MADE = CATALOGUE | {"main/results": results([metric.label for metric in shown()])}
"""What the catalogue has beside them."""
READ = [(key, schema) for room in (features, mmm4rec) for key, schema in room.ACCEPTED.items()]


def test_no_two_rooms_write_one_table() -> None:
    assert len(PRODUCED) == len(warehouse.TABLES) + len(features.TABLES) + len(mmm4rec.TABLES)


@pytest.mark.parametrize(("key", "accepted"), READ, ids=[key for key, _ in READ])
def test_what_is_read_is_what_is_written(key: str, accepted: pa.Schema) -> None:
    written = PRODUCED[key]
    for field in accepted:
        assert field.name in written.names, f"{key} has no column {field.name}"
        assert written.field(field.name).type == field.type, f"{key}: {field.name}"
        # A reader that takes nulls reads a table without; not the other way round.
        assert field.nullable or not written.field(field.name).nullable, f"{key}: {field.name}"


def test_every_table_and_column_says_what_it_is() -> None:
    for key, schema in (PRODUCED | MADE | {name: macro.columns for name, macro in MACROS.items()}).items():
        assert (schema.metadata or {}).get(b"comment"), key
        for field in schema:
            assert (field.metadata or {}).get(b"comment"), (key, field.name)


def test_what_analysts_read_names_no_python() -> None:
    """Analysts know SQL and commands: no module, no class, no name of a constant."""
    code = re.compile(
        r"\b(mmm4rec|pipelines)\.\w|\b(features|warehouse)(\.\w+){2}|\b[A-Z]+_[A-Z]+\b|STATUSES|None\b|\w\(\)"
    )
    declared = PRODUCED | MADE | {name: macro.columns for name, macro in MACROS.items()}
    comments = [schema.metadata[b"comment"] for schema in declared.values()]
    comments += [field.metadata[b"comment"] for schema in declared.values() for field in schema]
    comments += [macro.comment.encode() for macro in MACROS.values()]
    assert [comment for comment in comments if code.search(comment.decode())] == []
