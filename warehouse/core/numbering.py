"""Numbers for ids. One part of the ids is numbered at a time, so that its hash table fits into the processor's cache
and few texts are in memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.core.kcore import Codes, Flags

__all__ = ["numbered"]

_PARTS: Final = 16
"""Parts of the ids (``user_ids.sql`` and ``item_ids.sql`` assign them); each part is numbered separately."""
_ROWS_AT_ONCE: Final = 64 << 20
"""Ids that are held as text at the same time."""


def numbered(
    read: Callable[[], Iterator[pa.RecordBatch]], kept: Flags, pool: ThreadPoolExecutor
) -> Callable[[], tuple[pa.Array, Codes]]:
    """The ids of the kept rows, in no particular order, and for each of these rows the number of its id.

    Reads the rows at once and numbers them in `pool`. The returned function waits for the result.

    Args:
        read: gives batches with the columns `id` (text) and `part` (0 to 15, the same for equal ids), one row per
            interaction; called once or more.
        kept: which of the rows count.
        pool: the threads that number the ids.
    """
    rows = int(np.count_nonzero(kept))
    parts = np.empty(rows, np.uint8)
    turns = max(1, min(_PARTS, -(-rows // _ROWS_AT_ONCE)))
    encoded: list[Future[tuple[pa.Array, Codes]]] = []
    for turn in range(turns):
        wait(encoded)
        mine = range(_PARTS * turn // turns, _PARTS * (turn + 1) // turns)
        encoded += [pool.submit(_encoded, texts) for texts in _texts_by_part(read(), kept, parts, mine)]

    def finish() -> tuple[pa.Array, Codes]:
        codes = np.empty(rows, np.int32)
        first = 0
        for part, future in enumerate(encoded):
            ids, numbers = future.result()
            codes[parts == part] = numbers + np.int32(first)
            first += len(ids)
        return pa.concat_arrays([future.result()[0] for future in encoded]), codes

    return finish


def _texts_by_part(
    batches: Iterator[pa.RecordBatch], kept: Flags, parts: npt.NDArray[np.uint8], mine: range
) -> list[list[pa.Array]]:
    """The ids of the parts `mine`, each part in the order of the kept rows; writes the part of every kept row to
    `parts`."""
    texts: list[list[pa.Array]] = [[] for _ in mine]
    row = end = 0
    for batch in batches:
        here = np.flatnonzero(kept[row : row + batch.num_rows])
        row, start, end = row + batch.num_rows, end, end + len(here)
        part = batch["part"].to_numpy()[here]
        parts[start:end] = part
        order = np.argsort(part, kind="stable")
        borders = np.searchsorted(part[order], [*mine, mine.stop])
        taken = batch["id"].take(pa.array(here[order[borders[0] : borders[-1]]]))
        for column, (first, last) in zip(texts, pairwise(borders - borders[0]), strict=True):
            column.append(taken[first:last])
    return texts


def _encoded(texts: list[pa.Array]) -> tuple[pa.Array, Codes]:
    """The distinct texts, and for each given text its number among them."""
    encoded = pa.chunked_array(texts, pa.string()).dictionary_encode()
    texts.clear()
    if not encoded.num_chunks:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    # Arrow encodes all chunks with one hash table, so all chunks have the same dictionary.
    return encoded.chunk(0).dictionary, np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
