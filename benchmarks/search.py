"""Exact search of one query over 100,000 items, 512 wide, beside NumPy's plain matrix-vector product.

``python -m benchmarks.search [--quick] [--json]``. The vectors lie in Parquet and are searched through their mapped
copy, as `mmm4rec search` does it; the plain product is taken over the same vectors in memory, with BLAS as it is set
up, and is followed by a full partition for the best ten. Both in turns, in one process.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import arguments, measured, show
from benchmarks.vectors import write_vectors
from features.mapped import VectorTable, open_table
from features.search import search
from features.views import read_identity

K = 10


def main() -> None:
    """Write, measure, print."""
    given = arguments(__doc__ or "", items=100_000, width=512, repeats=200, folder="")
    items = 5_000 if given.quick else given.items
    with tempfile.TemporaryDirectory(dir=given.folder or None) as name:
        source = write_vectors(Path(name), "text_embeddings", items, given.width)
        run = measured(_measure, source, given.repeats)
    show(
        f"exact top {K} of {items:,} items, {given.width} wide, one query at a time, {os.cpu_count()} cores",
        {**run.result, "peak_rss_gib": run.peak_rss_gib, "items": items, "width": given.width},
        given.json,
    )


def _measure(source: Path, repeats: int) -> dict[str, Any]:
    folder = source.parent / "lookup" / "v1"
    first, _ = timed(lambda: open_table(source, folder))
    again, table = timed(lambda: open_table(source, folder))
    vectors = VectorTable.of(table, read_identity(source.parent))
    memory = np.array(vectors.vectors[1:])
    queries = np.random.default_rng(1).standard_normal((repeats, memory.shape[1]), dtype=np.float32)
    search([vectors], [queries[0]], K)  # the pages of the copy are mapped
    ours, plain = [], []
    for query in queries:
        seconds, hits = timed(lambda query=query: search([vectors], [query], K))
        ours.append(seconds)
        seconds, rows = timed(lambda query=query: np.argpartition(memory @ query, -K)[-K:])
        plain.append(seconds)
        assert {vectors.item_ids[row].as_py() for row in rows.tolist()} == {hit.item_id for hit in hits}
    p50, p95 = np.percentile(ours, [50, 95]) * 1e3
    plain_p50, plain_p95 = np.percentile(plain, [50, 95]) * 1e3
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "times_plain": float(p50 / plain_p50),
        "plain_p50_ms": float(plain_p50),
        "plain_p95_ms": float(plain_p95),
        "first_open_ms": first * 1e3,
        "open_ms": again * 1e3,
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
