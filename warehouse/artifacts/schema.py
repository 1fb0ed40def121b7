"""The declaration of a table: an Arrow schema with comments for Parquet files, the catalogue and the dictionary."""

import pyarrow as pa

__all__ = ["column", "table"]


def column(name: str, kind: pa.DataType, comment: str, nullable: bool = False) -> pa.Field:
    """A column with its meaning."""
    return pa.field(name, kind, nullable=nullable, metadata={"comment": comment})


def table(comment: str, *columns: pa.Field) -> pa.Schema:
    """A table with its meaning, including its key."""
    return pa.schema(columns, metadata={"comment": comment})
