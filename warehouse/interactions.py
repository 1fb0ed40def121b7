"""core/interactions: distinct ratings of items that have metadata."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from warehouse.duck import Engine, connect, execute, pattern, write_parquet
from warehouse.errors import WarehouseError
from warehouse.parquet import rows_of
from warehouse.tables import TABLES

__all__ = ["InteractionsSummary", "build_interactions"]


@dataclass(frozen=True)
class InteractionsSummary:
    """What became of the ratings: ratings = interactions + the rejected of each reason."""

    ratings: int
    interactions: int
    rejected: dict[str, int] = field(default_factory=dict)


def build_interactions(ratings: Path, items: Path, out: Path, engine: Engine | None = None) -> InteractionsSummary:
    """From ``raw/ratings`` and ``core/items`` (Parquet files) to ``interactions`` and ``rejected.parquet``.

    Of rows equal in user, item, rating and time the first line stays (`exact_duplicate`); then items
    without metadata go (`no_metadata`). A user who rated an item twice at different times keeps both.

    Raises:
        WarehouseError: no rating is left.
    """
    parameters = {"ratings": pattern(ratings), "items": pattern(items)}
    with connect(engine or Engine(), out) as connection:
        execute(connection, "duplicates", {"ratings": parameters["ratings"]})
        kept = write_parquet(
            connection,
            "interactions",
            out / "interactions.parquet",
            TABLES["core/interactions/interactions"],
            parameters,
        )
        write_parquet(
            connection,
            "interactions_rejected",
            out / "rejected.parquet",
            TABLES["core/interactions/rejected"],
            parameters,
        )
    if not kept:
        raise WarehouseError(
            f"none of the {rows_of(ratings):,} ratings is of an item with metadata: are the two raw files "
            "of the same category?"
        )
    reasons = pc.value_counts(pq.read_table(out / "rejected.parquet", columns=["reason"])["reason"])
    counts = {"exact_duplicate": 0, "no_metadata": 0} | {row["values"]: row["counts"] for row in reasons.to_pylist()}
    return InteractionsSummary(rows_of(ratings), kept, counts)
