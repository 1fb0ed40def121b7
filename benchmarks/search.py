"""Exact search for one query in 100,000 items, 512 wide, compared with NumPy's plain matrix-vector product.

``python -m benchmarks.search [--quick] [--json]``. The vectors are in Parquet and are searched through their mapped
copy, as in `mmm4rec search`. The plain product uses the same vectors in memory, with the installed BLAS, and then
selects the best ten with a partition. Both take turns, each in its own process, because the threads of BLAS keep a core
busy for a while after each product.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Measured, arguments, measured, show
from benchmarks.vectors import item_id, write_vectors
from features.lookup.mapped import VectorTable, open_table
from features.lookup.search import search
from features.lookup.views import read_identity

K, TURNS = 10, 3


def main() -> None:
    """Write the vectors, measure, print."""
    given = arguments(__doc__ or "", items=100_000, width=512, repeats=100, folder="")
    items = 5_000 if given.quick else given.items
    with tempfile.TemporaryDirectory(dir=given.folder or None) as name:
        source = write_vectors(Path(name), "text_embeddings", items, given.width)
        first = measured(_open, source)
        ours, plain = [], []
        for turn in range(TURNS):
            ours.append(measured(_search, source, given.repeats, turn))
            plain.append(measured(_plain, source, given.repeats, turn))
    for one, other in zip(ours, plain, strict=True):
        assert one.result["found"] == other.result["found"]
    p50, p95 = _percentiles(ours)
    plain_p50, plain_p95 = _percentiles(plain)
    show(
        f"exact top {K} of {items:,} items, {given.width} wide, one query at a time, {os.cpu_count()} cores",
        {
            "p50_ms": p50,
            "p95_ms": p95,
            "times_plain": p50 / plain_p50,
            "plain_p50_ms": plain_p50,
            "plain_p95_ms": plain_p95,
            "first_open_ms": first.result["open"] * 1e3,
            "open_ms": min(run.result["open"] for run in ours) * 1e3,
            "items": items,
            "width": given.width,
        },
        given.json,
    )


def _open(source: Path) -> dict[str, Any]:
    """Open the table for the first time, which copies it."""
    return {"open": timed(lambda: _table(source))[0]}


def _search(source: Path, repeats: int, seed: int) -> dict[str, Any]:
    opened, table = timed(lambda: _table(source))
    queries = _queries(repeats, table.identity.width, seed)
    search([table], [queries[0]], K)  # this maps the pages of the copy
    answers = [timed(lambda query=query: search([table], [query], K)) for query in queries]
    found = [sorted(hit.item_id for hit in hits) for _, hits in answers]
    return {"open": opened, "seconds": [seconds for seconds, _ in answers], "found": found}


def _plain(source: Path, repeats: int, seed: int) -> dict[str, Any]:
    memory = np.array(_table(source).vectors[1:])
    queries = _queries(repeats, memory.shape[1], seed)
    answers = [timed(lambda query=query: np.argpartition(memory @ query, -K)[-K:]) for query in queries]
    found = [sorted(map(item_id, rows.tolist())) for _, rows in answers]
    return {"seconds": [seconds for seconds, _ in answers], "found": found}


def _table(source: Path) -> VectorTable:
    return VectorTable.of(open_table(source, source.parent / "lookup" / "v1"), read_identity(source.parent))


def _queries(repeats: int, width: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed + 1).standard_normal((repeats, width), dtype=np.float32)


def _percentiles(runs: list[Measured]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds."""
    p50, p95 = np.percentile([seconds for run in runs for seconds in run.result["seconds"]], [50, 95]) * 1e3
    return float(p50), float(p95)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
