"""Memory-mapped copies of tables with one row per item, so that the cost of a look-up depends only on what it returns.

Parquet reads a whole row group, thousands of rows, to get one row. So the first process that opens a version of a table
copies it once to a cache folder: ``vectors.npy``, and ``rows.arrow`` with every other column. All later look-ups map
these two files and share the file cache. The whole table is never in memory, neither during copying nor later.

A copy is made again if it is not complete or was not made from exactly this file, so all copies may be deleted at any
time. :mod:`features.tables` declares the columns.
"""

import errno
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.encoders import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.parquet import ROW_GROUP
from warehouse.artifacts.durable import flush, replacing
from warehouse.artifacts.errors import READ_ONLY, ReadOnlyError, StoreError
from warehouse.artifacts.locks import held

Rows = NDArray[np.int64]
"""Row numbers of items, from 1; 0 stands for an unknown item."""

_FORMAT = 1
"""The version of the copy's format. Increase it with every change after which older copies must not be read."""
_ROWS, _VECTORS, _LENGTH = "rows.arrow", "vectors.npy", "length"
_UNREADABLE = (OSError, EOFError, KeyError, TypeError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class ItemTable:
    """A mapped table. Rows are counted from 1, in bytewise order of item_id. Row 0 stands for an unknown item."""

    schema: pa.Schema
    """The schema of every column except the vectors."""
    batches: Sequence[pa.RecordBatch]
    """Those columns, mapped."""
    item_ids: pa.LargeStringArray
    """[n], sorted bytewise, each once. They are in memory, unlike the other columns."""
    vectors: Vectors | None
    """[n+1, width], mapped; row 0 and rows that are not present are zero. None if the table has no vectors. Changes to
    the array stay in this process."""

    def rows(self, ids: Sequence[str]) -> Rows:
        """The row of each id [len(ids)]; 0 if the table does not have the id.

        Raises:
            FeatureError: an id is not a text.
        """
        return find_rows(self.item_ids, ids)

    def take(self, rows: Rows, columns: Sequence[str]) -> pa.Table:
        """Columns of the given rows, in that order. Rows may repeat; row 0 gives nulls."""
        wanted = np.unique(rows[rows > 0])
        starts = np.cumsum([1, *(batch.num_rows for batch in self.batches)])
        batch_of = np.searchsorted(starts, wanted, "right") - 1
        parts = [
            self.batches[number].select(columns).take(pa.array(wanted[batch_of == number] - starts[number]))
            for number in np.unique(batch_of)
        ]
        found = pa.Table.from_batches(parts, pa.schema([self.schema.field(name) for name in columns]))
        places = pa.array(np.searchsorted(wanted, rows), mask=rows == 0)
        return found.combine_chunks().take(places)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column, mapped."""
        return pa.chunked_array([batch[name] for batch in self.batches], self.schema.field(name).type)


@dataclass(frozen=True)
class VectorTable:
    """The vectors of one modality of a domain, by rows counted from 1. Row 0 stands for an unknown item."""

    item_ids: pa.LargeStringArray
    """[n], sorted bytewise, each once."""
    vectors: Vectors
    """[n+1, width]; a row that is not present is zero."""
    present: NDArray[np.bool_]
    """[n+1]: whether the item has this modality; false for row 0."""
    lengths: NDArray[np.float32]
    """[n+1]: Euclidean length of each vector."""
    identity: EncoderIdentity
    """The encoder that made the vectors."""

    @classmethod
    def of(cls, table: ItemTable, identity: EncoderIdentity) -> Self:
        """The vectors of a mapped table of embeddings.

        Raises:
            FeatureError: the table has no vectors, or their width is not that of the encoder.
        """
        if table.vectors is None or table.vectors.shape[1] != identity.width:
            raise FeatureError(
                f"the table has no vectors of width {identity.width}, the width of {identity.model}; "
                "rebuild the embeddings"
            )
        present, lengths = (table.column(name).to_numpy() for name in ("present", _LENGTH))
        return cls(
            item_ids=table.item_ids,
            vectors=table.vectors,
            present=np.concatenate([[False], present]),
            lengths=np.concatenate([np.zeros(1, np.float32), lengths]),
            identity=identity,
        )

    def rows(self, ids: Sequence[str]) -> Rows:
        """The same as :meth:`ItemTable.rows`."""
        return find_rows(self.item_ids, ids)


def find_rows(item_ids: pa.LargeStringArray, ids: Sequence[str]) -> Rows:
    """The row of each of `ids` in the sorted `item_ids`, counted from 1; 0 if the id is missing.

    This is a binary search for all ids at once: about twenty small steps for a million items, without an index.

    Raises:
        FeatureError: an id is not a text.
    """
    try:
        asked = pa.array(ids, pa.large_string())
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise FeatureError(f"an item id is not a text: {error}") from error
    if asked.null_count:
        raise FeatureError("an item id is None: item ids must be texts")
    low, high = np.zeros(len(asked), np.int64), np.full(len(asked), len(item_ids))
    if not len(item_ids):
        return low
    while (open_ := low < high).any():
        middle = (low + high) // 2
        after = open_ & _numpy(pc.less(_at(item_ids, middle), asked))
        low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
    return np.where(_numpy(pc.equal(_at(item_ids, low), asked)), low + 1, 0)


def open_table(source: Path, folder: Path) -> ItemTable:
    """Map the copy of a Parquet table. The copy is made first if it is missing.

    Any number of processes may call this at once: one copies, the others wait for it. A killed process leaves nothing
    that a later one would read.

    Args:
        source: the table: a column item_id, sorted by its bytes; optionally vectors as fixed-size lists of floats, with
            a mask `present`.
        folder: the folder of the copy, named after the version. Making a copy removes its neighbours, the copies of
            other versions of the same table.

    Raises:
        FeatureError: the table cannot be read, has another form, or there is no space for the copy.
    """
    try:
        stamp = _stamp(source)
        table = _load(folder, stamp)
        if table is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with held(folder.parent / ".lock", notice=0, limit=math.inf):
                table = _load(folder, stamp)  # another process may have made the copy in the meantime
                if table is None:
                    _copy(source, folder, stamp)
                    table = _load(folder, stamp)
    except (OSError, StoreError, pa.ArrowException) as error:
        cause = error.__cause__ if isinstance(error, ReadOnlyError) else error
        raise FeatureError(f"{source} cannot be copied to {folder} for look-ups ({cause}): {_remedy(error)}") from error
    if table is None:
        raise FeatureError(f"{folder} was just written and cannot be read: delete it and check the disk")
    return table


def _remedy(error: Exception) -> str:
    """What helps if a copy cannot be made."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ReadOnlyError) or number in READ_ONLY:
        return "allow writing to that folder, or use a copy of the data folder that you may write to"
    if number not in (None, errno.ENOENT, errno.EIO):  # of the folder, not of the table
        return "make room in that folder"
    return "rebuild the artifact that holds this file"


def _at(item_ids: pa.LargeStringArray, rows: Rows) -> pa.Array:
    """Ids at these rows; a row beyond the end gives the last id."""
    return item_ids.take(pa.array(np.minimum(rows, len(item_ids) - 1)))


def _numpy(mask: pa.BooleanArray) -> NDArray[np.bool_]:
    return np.asarray(mask.to_numpy(zero_copy_only=False))


def _stamp(source: Path) -> bytes:
    """A text that differs between files of the same version, for example after a damaged file was built again."""
    found = source.stat()
    return f"{_FORMAT}:{found.st_size}:{found.st_mtime_ns}".encode()


def _load(folder: Path, stamp: bytes) -> ItemTable | None:
    """The copy in a folder; None if it is missing, incomplete, or a copy of another file."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / _ROWS)))
        schema = reader.schema
        if schema.metadata[b"source"] != stamp:
            return None
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
            batch["item_id"].validate(full=True)
        ids = [batch["item_id"].cast(pa.large_string()) for batch in batches]
        item_ids = pa.concat_arrays([pa.array([], pa.large_string()), *ids])
        vectors = None
        if _LENGTH in schema.names:
            vectors = np.asarray(np.lib.format.open_memmap(folder / _VECTORS, mode="c"))
    except _UNREADABLE:
        return None
    if vectors is not None and (vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(item_ids) + 1):
        return None
    return ItemTable(schema, batches, item_ids, vectors)


def _copy(source: Path, folder: Path, stamp: bytes) -> None:
    """Write the copy, the vectors first; then remove its neighbours."""
    _remove(folder)
    folder.mkdir()
    # Without pre_buffer=False, all row groups would be read ahead into memory.
    with pq.ParquetFile(source, pre_buffer=False) as file, ExitStack() as open_files:
        schema = file.schema_arrow
        width = _width(source, schema)
        # Files are closed in the opposite order. So the rows, which contain the stamp, get their name last.
        rows = open_files.enter_context(_replacing(folder / _ROWS))
        fields = [field.with_nullable(True) for field in schema if field.name != "vector"]
        if width is not None:
            fields.append(pa.field(_LENGTH, pa.float32()))
            vectors = open_files.enter_context(_replacing(folder / _VECTORS))
            shape = (file.metadata.num_rows + 1, width)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(vectors, header)
            vectors.write(bytes(4 * width))
        kept = pa.schema(fields, {"source": stamp})
        writer = open_files.enter_context(pa.ipc.new_file(rows, kept))
        last = None
        for batch in file.iter_batches(ROW_GROUP, use_threads=False):
            last = _check_order(source, batch["item_id"], last)
            columns = {name: batch[name] for name in schema.names if name != "vector"}
            if width is not None:
                block = _vectors(source, batch, width)
                vectors.write(block.data)
                columns[_LENGTH] = pa.array(_lengths(source, batch, block))
            writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=kept))
    for neighbour in folder.parent.iterdir():
        if neighbour != folder:
            _remove(neighbour)


def _remove(folder: Path) -> None:
    """Remove a copy, complete or not. A folder with any other file in it is not a copy, and is left alone."""
    ours = {_ROWS, _VECTORS, *map(_unfinished, (_ROWS, _VECTORS))}
    if folder.is_dir() and not folder.is_symlink() and {path.name for path in folder.iterdir()} <= ours:
        shutil.rmtree(folder, ignore_errors=True)


def _width(source: Path, schema: pa.Schema) -> int | None:
    """The width of the vectors, None if the table has none."""
    kinds = {field.name: field.type for field in schema}
    if kinds.get("item_id") not in (pa.string(), pa.large_string()):
        raise FeatureError(f"{source} has no column item_id of texts; rebuild the artifact that holds this file")
    if "vector" not in kinds:
        return None
    kind = kinds["vector"]
    if (
        not pa.types.is_fixed_size_list(kind)
        or not pa.types.is_floating(kind.value_type)
        or kinds.get("present") != pa.bool_()
    ):
        raise FeatureError(
            f"{source}: vectors are {kind}, not floats in lists of one size, with a mask `present`; "
            "rebuild the embeddings"
        )
    return int(kind.list_size)


def _check_order(source: Path, ids: pa.Array, last: pa.Scalar | None) -> pa.Scalar | None:
    """Check that the `last` id before these ids, and these ids, ascend bytewise; return the last of them."""
    if not len(ids):
        return last
    ascending = pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py()
    if ids.null_count or not ascending or (last is not None and not pc.less(last, ids[0]).as_py()):
        raise FeatureError(f"{source}: item ids are not sorted, or an id occurs twice; rebuild the artifact")
    return ids[-1]


def _vectors(source: Path, batch: pa.RecordBatch, width: int) -> Vectors:
    """The vectors of a batch as float32, [rows, width]; zero if the mask says that there is none."""
    values = batch["vector"].flatten()
    if batch["vector"].null_count or batch["present"].null_count or values.null_count:
        raise FeatureError(f"{source}: there are nulls in the vectors or in their mask; rebuild the embeddings")
    present = batch["present"].to_numpy(zero_copy_only=False)
    vectors = values.to_numpy().astype(np.float32, copy=False).reshape(-1, width)
    return np.ascontiguousarray(np.where(present[:, None], vectors, np.float32(0)))


def _lengths(source: Path, batch: pa.RecordBatch, vectors: Vectors) -> NDArray[np.float32]:
    """Euclidean lengths [rows]; summed in float64, in which the square of a float32 cannot overflow."""
    lengths: NDArray[np.float32] = np.linalg.norm(vectors.astype(np.float64), axis=1).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        item = batch["item_id"][int(bad[0])].as_py()
        raise FeatureError(f"{source}: the vector of {item!r} is not finite; rebuild the embeddings")
    return lengths


def _unfinished(name: str) -> str:
    return f".{name}"


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that gets the name only when it is complete and on the disk."""
    with replacing(path, path.with_name(_unfinished(path.name))) as file:
        yield file
    flush(path.parent)
