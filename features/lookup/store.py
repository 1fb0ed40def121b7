"""The feature store's front: features of items and users, looked up by id.

Every answer is in the order of the question, and an id that is not known gets a row that says so: no value, no
vector, not present. A store reads one version of each table of items, the one that was current when it was first
asked for it, so all its answers fit each other; a new store sees newer ones.

Where artifacts lie and how SQL is asked are not known here: both are handed over by whoever makes the store.
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
from features.tables import SEQUENCE_ITEMS, read_table

__all__ = ["Aligned", "DomainFeatures", "FeatureStore", "Histories", "Items", "Moment"]

Moment = int | float | str | date
"""Unix seconds, a date (its first second), a datetime or a text of one; without an offset it is UTC."""

Columns = Mapping[str, NDArray[Any]]
Form = TypeVar("Form", pa.Table, Columns)

_ITEMS: Final = [view.name for view in VIEWS.values() if view.entity == "item"]
_VECTORS: Final = [view.name for view in VIEWS.values() if view.vectors]
_SEQUENCE_ITEMS: Final = SEQUENCE_ITEMS.append(pa.field("item_index", pa.int32(), nullable=False))


class Histories(Protocol):
    """What users had done before a moment; answered by whoever has the interactions and SQL."""

    def histories(self, domain: str, users: Sequence[str], as_of: Moment | Sequence[Moment]) -> pa.Table:
        """See :meth:`FeatureStore.histories`."""
        ...


@dataclass(frozen=True)
class Items(Generic[Form]):
    """Features of the items asked for, row by row in the order of the question."""

    item_ids: list[str]
    """[n], as asked, repeats and all."""
    known: NDArray[np.bool_]
    """[n]: whether every view knows the item. What a view does not know is null in Arrow; in NumPy a text is None, a
    number NaN, a vector zero; `present` is false in both."""
    unknown: list[str]
    """The ids that some view does not know, each once, in the order asked."""
    views: dict[str, Form]
    """The columns of each view [n]; its `vector` is [n, width]."""


@dataclass(frozen=True)
class Aligned:
    """The vectors of one modality by item_index; row 0 is padding."""

    vectors: Vectors
    """[N+1, width] float32; zero where not present. May be written to: what is written stays in this process."""
    present: NDArray[np.bool_]
    """[N+1]; false for row 0."""
    identity: EncoderIdentity
    """What made the vectors."""


@dataclass(frozen=True)
class DomainFeatures:
    """All of a domain, aligned to core/sequences: `torch.from_numpy` takes the arrays as they are."""

    item_ids: list[str]
    """[N]; the item of item_index i is item_ids[i-1]."""
    text: Aligned
    image: Aligned


class FeatureStore:
    """Features by id.

    Args:
        locate: the current artifact of (layer/noun, domain); raises if there is none.
        cache: folder for mapped copies (:mod:`features.lookup.mapped`), made if need be.
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
        """Features of items, in the order asked.

        Args:
            domain: the domain.
            ids: item ids, in any order, repeatedly if you like, known or not.
            views: names of item views (:data:`features.lookup.views.VIEWS`).
            as_: tables of Arrow, or NumPy arrays by column.

        Raises:
            FeatureError: no such view, an id that is no text, or a table that cannot be read.
        """
        found: dict[str, Any] = {}
        known = np.ones(len(ids), np.bool_)
        for name in views:
            if name not in _ITEMS:
                raise FeatureError(f"no view {name!r} of items; there are {', '.join(_ITEMS)}")
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
            FeatureError: no such view, one without vectors, or a table that cannot be read.
        """
        if view not in _VECTORS:
            raise FeatureError(f"no view {view!r} of vectors; there are {', '.join(_VECTORS)}")
        return self._vectors(domain, VIEWS[view], self._table(domain, VIEWS[view]))

    def domain(self, domain: str) -> DomainFeatures:
        """The vectors of all items of a domain in the order of core/sequences, texts and pictures.

        Mapped as they are where the embeddings are of exactly these items, which is the rule.

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
        """What users had rated strictly before a moment: nothing of the moment itself, nothing later.

        Columns user_id, and the lists item_ids, times (Unix seconds UTC) and ratings, oldest first, equal times in
        the order of the raw file. A row for each of `users`, in their order; of one who has rated nothing by then the
        lists are empty, whether or not the user comes later: who will come is not known yet.

        Args:
            domain: the domain.
            users: user ids, repeatedly if you like.
            as_of: one moment for all, or one for each.
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
                f"{view.table(artifact)}: no column {', '.join(sorted(missing))}; `mmm4rec run {domain}` rebuilds it"
            )
        return table

    def _vectors(self, domain: str, view: FeatureView, table: ItemTable) -> VectorTable:
        return VectorTable.of(table, read_identity(self._artifact(view.key, domain).path))

    def _aligned(self, domain: str, name: str, item_ids: list[str]) -> Aligned:
        # A mapping of its own: what a trainer writes into it changes no other answer.
        table = self._vectors(domain, VIEWS[name], self._map(domain, VIEWS[name]))
        rows = find_rows(table.item_ids, item_ids)
        if not rows.all():
            missing = item_ids[int(np.argmin(rows))]
            raise FeatureError(
                f"{name} of {domain} lack {int((rows == 0).sum()):,} of {len(rows):,} items, such as {missing!r}; "
                f"`mmm4rec run {domain}` rebuilds them"
            )
        order = np.concatenate([np.zeros(1, np.int64), rows])
        if np.array_equal(order, np.arange(len(table.vectors))):
            return Aligned(table.vectors, table.present, table.identity)
        return Aligned(table.vectors[order], table.present[order], table.identity)


def _columns(view: FeatureView, table: ItemTable, rows: Rows) -> dict[str, pa.ChunkedArray]:
    """The columns but id and vectors; whoever is unknown is not present."""
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
