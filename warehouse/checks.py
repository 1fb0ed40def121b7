"""Checks: properties of the tables, each a statement in ``sql/check_*.sql`` that counts what breaks it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warehouse.duck import Engine, connect, pattern, table

__all__ = ["violations"]


def violations(check: str, tables: Mapping[str, Path], **parameters: Any) -> dict[str, int]:
    """How often each property of ``sql/<check>.sql`` is broken over Parquet files; 0 everywhere is well.

    Args:
        check: name of the statement, such as ``check_sequences``.
        tables: files by the parameter that names them in the statement.
        parameters: its other parameters.
    """
    bound = {name: pattern(path) for name, path in tables.items()} | parameters
    with tempfile.TemporaryDirectory() as folder, connect(Engine(), Path(folder)) as connection:
        counts: dict[str, int] = table(connection, check, bound).to_pylist()[0]
    return counts
