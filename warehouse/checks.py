"""Checks of the tables. Each statement in ``sql/check_*.sql`` counts the violations of some properties."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warehouse.duck import Engine, connect, pattern, table

__all__ = ["violations"]


def violations(check: str, tables: Mapping[str, Path], **parameters: Any) -> dict[str, int]:
    """How often Parquet files violate each property of ``sql/<check>.sql``; all counts should be 0.

    Args:
        check: name of the statement, such as ``check_sequences``.
        tables: the files, by the parameter that stands for them in the statement.
        parameters: the statement's other parameters.
    """
    bound = {name: pattern(path) for name, path in tables.items()} | parameters
    with tempfile.TemporaryDirectory() as folder, connect(Engine(), Path(folder)) as connection:
        counts: dict[str, int] = table(connection, check, bound).to_pylist()[0]
    return counts
