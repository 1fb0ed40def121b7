"""The interface of the feature store: look-ups of the features of items and users by id.

Every answer is in the order of the request. An unknown id gets a row without value and vector, marked as not present. A
store reads one version of each item table, the version that was current at the first request, so all its answers are
consistent. A new store reads newer versions.

This module does not know where artifacts are or how to run SQL. The creator of a store passes both in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.encoders import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.lookup.mapped import ItemTable, Rows, VectorTable, find_rows, open_table
from features.lookup.views import VIEWS, BuiltVersion, FeatureView, read_identity
from features.parquet import read_table
from features.tables import SEQUENCE_ITEMS

__all__ = ["Aligned", "DomainFeatures", "FeatureStore", "Histories", "Items", "Moment"]

Moment = int | float | str | date
"""Unix seconds, a date (its first second), a datetime, or a datetime as text; without an offset it is UTC."""

Columns = Mapping[str, NDArray[Any]]
Form = TypeVar("Form", pa.Table, Columns)

_ITEMS: Final = [view.name for view in VIEWS.values() if view.entity == "item"]
_VECTORS: Final = [view.name for view in VIEWS.values() if view.vectors]
_SEQUENCE_ITEMS: Final = SEQUENCE_ITEMS.append(pa.field("item_index", pa.int32(), nullable=False))


class Histories(Protocol):
    """The histories of users before a moment. The implementation has the interactions and SQL."""

    def histories(self, domain: str, users: Sequence[str], as_of: Moment | Sequence[Moment]) -> pa.Table:
        """See :meth:`FeatureStore.histories`."""
        ...


@dataclass(frozen=True)
class Items(Generic[Form]):
    """The features of the requested items, row by row in the order of the request."""

    item_ids: list[str]
    """[n], as requested, including repeats."""
    known: NDArray[np.bool_]
    """[n]: whether every requested view has the item. In a view without the item, its values are null in Arrow; in
    NumPy, a text is None, a number NaN, and a vector zero. `present` is false in both."""
    unknown: list[str]
    """The ids that at least one view does not have, each once, in the order of the request."""
    views: dict[str, Form]
    """The columns of each view [n]; its `vector` is [n, width]."""


@dataclass(frozen=True)
class Aligned:
    """The vectors of one modality by item_index; row 0 is padding."""

    vectors: Vectors
    """[N+1, width] float32; a row that is not present is zero. The array may be changed; changes stay in this
    process."""
    present: NDArray[np.bool_]
    """[N+1]; false for row 0."""
    identity: EncoderIdentity
    """The encoder that made the vectors."""


@dataclass(frozen=True)
class DomainFeatures:
    """All features of a domain, aligned to core/sequences. `torch.from_numpy` accepts the arrays directly."""

    item_ids: list[str]
    """[N]; the item of item_index i is item_ids[i-1]."""
    text: Aligned
    image: Aligned


class FeatureStore:
    """Look-up of features by id.

    Args:
        locate: returns the current artifact of (layer/noun, domain); raises if there is none.
        cache: folder for mapped copies (:mod:`features.lookup.mapped`), created if it is missing.
        histories: answers :meth:`histories`.
    """

    def __init__(self, locate: Callable[[str, str], BuiltVersion], cache: Path, histories: Histories) -> None:
        self._locate = locate
        self._cache = cache
        self._histories = histories
        self._artifacts: dict[tuple[str, str], BuiltVersion] = {}
        self._tables: dict[tuple[str, str], ItemTable] = {}

    @overload
    def items(
        self, domain: str, ids: Sequence[str], views: Sequence[str], as_: Literal["arrow"] = "arrow"
    ) -> Items[pa.Table]: ...

    @overload
    def items(self, domain: str, ids: Sequence[str], views: Sequence[str], as_: Literal["numpy"]) -> Items[Columns]: ...

    def items(
        self, domain: str, ids: Sequence[str], views: Sequence[str], as_: Literal["arrow", "numpy"] = "arrow"
    ) -> Items[pa.Table] | Items[Columns]:
        """The features of items, in the requested order.

        Args:
            domain: the domain.
            ids: item ids in any order; they may repeat or be unknown.
            views: names of item views (:data:`features.lookup.views.VIEWS`).
            as_: Arrow tables, or NumPy arrays by column.

        Raises:
            FeatureError: there is no such view, an id is not a text, or a table cannot be read.
        """
        found: dict[str, Any] = {}
        known = np.ones(len(ids), np.bool_)
        for name in views:
            if name not in _ITEMS:
                raise FeatureError(f"there is no view {name!r} of items; there are {', '.join(_ITEMS)}")
            view = VIEWS[name]
            table = self._table(domain, view)
            rows = table.rows(ids)
            known &= rows > 0
            found[name] = (_arrow if as_ == "arrow" else _numpy)(view, table, rows, ids)
        unknown = [item_id for item_id, here in zip(ids, known, strict=True) if not here]
        return Items(list(ids), known, list(dict.fromkeys(unknown)), found)

    def vectors(self, domain: str, view: str) -> VectorTable:
        """All vectors of a view of a domain, mapped.

        Raises:
            FeatureError: there is no such view, it has no vectors, or a table cannot be read.
        """
        if view not in _VECTORS:
            raise FeatureError(f"there is no view {view!r} of vectors; there are {', '.join(_VECTORS)}")
        return self._vectors(domain, VIEWS[view], self._table(domain, VIEWS[view]))

    def domain(self, domain: str) -> DomainFeatures:
        """The vectors of all items of a domain in the order of core/sequences, texts and pictures.

        Usually the embeddings contain exactly these items, and the arrays are mapped directly.

        Raises:
            FeatureError: an item has no row in the embeddings, or a table cannot be read.
        """
        path = self._artifact("core/sequences", domain).path / "items.parquet"
        items = read_table(path, _SEQUENCE_ITEMS).sort_by("item_index")
        if not np.array_equal(items["item_index"].to_numpy(), np.arange(1, len(items) + 1)):
            raise FeatureError(f"{path}: item_index is not 1..{len(items)}; rebuild core/sequences")
        item_ids = items["item_id"].to_pylist()
        text, image = (self._aligned(domain, name, item_ids) for name in ("text_embeddings", "image_embeddings"))
        return DomainFeatures(item_ids, text, image)

    def histories(self, domain: str, users: Sequence[str], as_of: Moment | Sequence[Moment]) -> pa.Table:
        """What users had rated strictly before a moment: nothing at that moment and nothing later.

        The columns are user_id and the lists item_ids, times (Unix seconds UTC) and ratings, oldest first; equal times
        are in the order of the raw file. There is one row for each of `users`, in their order. If a user had not rated
        anything by then, the lists are empty, even if the user appears later, because the future is not known yet.

        Args:
            domain: the domain.
            users: user ids; they may repeat.
            as_of: one moment for all users, or one for each user.
        """
        return self._histories.histories(domain, users, as_of)

    def _artifact(self, key: str, domain: str) -> BuiltVersion:
        """The version that this store reads."""
        if (key, domain) not in self._artifacts:
            self._artifacts[key, domain] = self._locate(key, domain)
        return self._artifacts[key, domain]

    def _table(self, domain: str, view: FeatureView) -> ItemTable:
        if (view.name, domain) not in self._tables:
            self._tables[view.name, domain] = self._map(domain, view)
        return self._tables[view.name, domain]

    def _map(self, domain: str, view: FeatureView) -> ItemTable:
        artifact = self._artifact(view.key, domain)
        table = open_table(view.table(artifact), self._cache / "lookup" / domain / view.name / artifact.version)
        missing = {*view.columns} - {*table.schema.names} - ({"vector"} if table.vectors is not None else set())
        if missing:
            raise FeatureError(
                f"{view.table(artifact)}: there is no column {', '.join(sorted(missing))}; "
                f"`mmm4rec run {domain}` rebuilds it"
            )
        return table

    def _vectors(self, domain: str, view: FeatureView, table: ItemTable) -> VectorTable:
        return VectorTable.of(table, read_identity(self._artifact(view.key, domain).path))

    def _aligned(self, domain: str, name: str, item_ids: list[str]) -> Aligned:
        # Mapped again for each call, so that a trainer's changes to it do not affect other answers.
        table = self._vectors(domain, VIEWS[name], self._map(domain, VIEWS[name]))
        rows = find_rows(table.item_ids, item_ids)
        if not rows.all():
            missing = item_ids[int(np.argmin(rows))]
            raise FeatureError(
                f"{int((rows == 0).sum()):,} of {len(rows):,} items are missing in {name} of {domain}, such as "
                f"{missing!r}; `mmm4rec run {domain}` rebuilds them"
            )
        order = np.concatenate([np.zeros(1, np.int64), rows])
        if np.array_equal(order, np.arange(len(table.vectors))):
            return Aligned(table.vectors, table.present, table.identity)
        return Aligned(table.vectors[order], table.present[order], table.identity)


def _columns(view: FeatureView, table: ItemTable, rows: Rows) -> dict[str, pa.ChunkedArray]:
    """The columns except id and vectors; an unknown item is not present."""
    found = table.take(rows, [name for name in view.columns if name not in ("item_id", "vector")])
    columns = dict(zip(found.column_names, found.columns, strict=True))
    if "present" in columns:
        columns["present"] = pc.fill_null(columns["present"], False)
    return columns


def _arrow(view: FeatureView, table: ItemTable, rows: Rows, ids: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = {"item_id": pa.array(ids, pa.string()), **_columns(view, table, rows)}
    if table.vectors is not None:
        values = pa.array(table.vectors[rows].ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(
            values, table.vectors.shape[1], mask=pa.array(rows == 0, pa.bool_())
        )
    return pa.table({name: columns[name] for name in view.columns})


def _numpy(view: FeatureView, table: ItemTable, rows: Rows, ids: Sequence[str]) -> Columns:
    columns = {name: column.to_numpy() for name, column in _columns(view, table, rows).items()}
    if table.vectors is not None:
        columns["vector"] = table.vectors[rows]
    return {"item_id": np.array(ids, object), **columns}
