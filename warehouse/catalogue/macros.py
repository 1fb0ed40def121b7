"""The catalogue's macros: queries with parameters.

This module declares names, parameters, columns and meanings, which become the comments in the catalogue and the data
dictionary. ``sql/macro_<name>.sql`` has the SQL of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from warehouse.artifacts.schema import column as _column
from warehouse.artifacts.schema import table as _table

__all__ = ["MACROS", "Macro"]

_string, _int32, _int64 = pa.string(), pa.int32(), pa.int64()
_moment = pa.timestamp("us")


@dataclass(frozen=True)
class Macro:
    """A query with parameters: a table macro, ``FROM schema.name(...)``, or a scalar function if it has no columns."""

    parameters: Mapping[str, str]
    """The meaning of each parameter, in the order of the parameters."""
    columns: pa.Schema
    """The columns of its answer; the schema's comment says what the macro does."""
    needs: frozenset[str] = frozenset()
    """The views that it reads."""

    @property
    def comment(self) -> str:
        """What the macro does and its parameters in one text, for the catalogue."""
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in self.parameters.items())
        return f"{self.columns.metadata[b'comment'].decode()}. {meanings}"


_as_of = "Unix seconds, a date, a TIMESTAMP, or one of them as text (UTC without an offset; a date is its first second)"
_key = _column("key", _string, "layer/noun of the artifact")
_domain = _column("domain", _string, "Domain; _all if the artifact spans all domains")
_version = _column("version", _string, "Data version: the artifact's folder v=<version>")
_depth = _column("depth", _int32, "Steps on the longest path from the start; 0 for the start itself")
_root = {"key": "layer/noun of the artifact", "domain": "its domain; the default is _all"}

MACROS: Final[dict[str, Macro]] = {
    "main/unix_seconds": Macro(
        {"moment": _as_of},
        _table("A moment as Unix seconds (BIGINT); fractions are rounded up, and null gives null"),
    ),
    "main/history": Macro(
        {"domain": "the domain", "user_id": "the user", "as_of": _as_of},
        _table(
            "What a user had rated before a moment: the rows of core.interactions with a time strictly before as_of, "
            "in the order of (time, position). Amazon's times are whole days, so if as_of is a day, the ratings of "
            "that day are left out",
            _column("position", _int64, "Line in the raw file. It gives the order of ratings with equal times"),
            _column("item_id", _string, "Item"),
            _column("rating", pa.float32(), "Stars"),
            _column("time", _int64, "Time of the rating, Unix seconds UTC"),
            _column("rated_at", _moment, "The time as a TIMESTAMP in UTC"),
        ),
        frozenset({"core.interactions"}),
    ),
    "main/histories": Macro(
        {"domain": "the domain", "as_of": _as_of},
        _table(
            "main.history of every user of a domain who had rated something before as_of, one row per user, sorted by "
            "user_id",
            _column("user_id", _string, "User"),
            _column("item_ids", pa.list_(_string), "Items, oldest first"),
            _column("times", pa.list_(_int64), "Times of the ratings, Unix seconds UTC, in the same order as item_ids"),
            _column("ratings", pa.list_(pa.float32()), "Stars, in the same order as item_ids"),
            _column("rated_at", pa.list_(_moment), "The times as TIMESTAMPs in UTC"),
        ),
        frozenset({"core.interactions"}),
    ),
    "lineage/upstream": Macro(
        _root,
        _table(
            "What an artifact was made from, down to the raw files: the artifact itself and all its ancestors. An "
            "ancestor has a greater depth than everything that was made from it. There is one row per ancestor, or "
            "one row per raw file if it read raw files",
            _depth,
            _key,
            _domain,
            _column("version", _string, "Data version that was read"),
            _column(
                "current",
                pa.bool_(),
                "Whether this is the current version; if not, it is unknown what it was made from",
            ),
            _column("source", _string, "Raw file that it read", nullable=True),
            _column("sha256", _string, "Hash of that file's bytes", nullable=True),
        ),
    ),
    "lineage/downstream": Macro(
        _root,
        _table(
            "What was made from an artifact: the artifact itself and all its descendants, one row each. A descendant "
            "has a greater depth than everything that it was made from",
            _depth,
            _key,
            _domain,
            _version,
        ),
    ),
    "lineage/impact": Macro(
        {
            "source": "name of the raw file, as in lineage.sources",
            "domain": "its domain; the default is all domains that have the file",
        },
        _table(
            "What must be built again if a raw file changes: the artifacts that read it, and everything that was made "
            "from them, sorted by depth. The name of a file or a domain that is not known gives no rows",
            _depth,
            _key,
            _domain,
            _version,
        ),
    ),
}
"""Macros of the catalogue, by ``schema/name``."""
