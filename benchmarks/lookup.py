"""Looking up 1,000 item vectors of a million by random ids, compared with pyarrow reading these rows from Parquet.

``python -m benchmarks.lookup [--quick] [--json]``. It times `FeatureStore.items` (from ids to a matrix with its mask)
over the mapped copy in a warm file cache, with new ids in every call. pyarrow reads the same columns with a filter on
the ids, on all cores.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measure import GIB, arguments, measured, show
from benchmarks.search import timed
from benchmarks.vectors import item_id, write_vectors
from features.lookup.store import FeatureStore
from warehouse.artifacts.store import Store
from warehouse.catalogue.histories import StoredHistories

ASKED = 1000
VIEW = "text_embeddings"


@dataclass(frozen=True)
class Built:
    """The only artifact of this benchmark."""

    version: str
    path: Path


def main() -> None:
    """Write the vectors, measure, print."""
    given = arguments(__doc__ or "", items=1_000_000, width=512, repeats=100, folder="")
    items = 20_000 if given.quick else given.items
    with tempfile.TemporaryDirectory(dir=given.folder or None) as name:
        artifact = Built("v1", Path(name))
        write_vectors(artifact.path, VIEW, items, given.width)
        copied = measured(_copy, artifact)
        run = measured(_look_up, artifact, items, given.repeats)
        parquet = measured(_read_parquet, artifact, items, min(given.repeats, 5)).result
    figures = {
        **run.result,
        "ratio_to_parquet": run.result["p50_ms"] / parquet,
        "parquet_p50_ms": parquet,
        "first_open_seconds": copied.seconds,
        "copying_peak_rss_gib": copied.peak_rss_gib,
        "items": items,
        "width": given.width,
    }
    show(f"{ASKED:,} vectors of {given.width} out of {items:,}, by random ids", figures, given.json)


def _copy(artifact: Built) -> None:
    """Open the store for the first time, which copies the table."""
    _open(artifact)


def _open(artifact: Built) -> FeatureStore:
    store = FeatureStore(lambda key, domain: artifact, artifact.path / "cache", StoredHistories(Store(artifact.path)))
    store.vectors("D", VIEW)
    return store


def _look_up(artifact: Built, items: int, repeats: int) -> dict[str, Any]:
    opened, store = timed(lambda: _open(artifact))
    seconds = []
    for asked in _questions(items, repeats):
        took, found = timed(lambda asked=asked: store.items("D", asked, [VIEW], "numpy"))
        seconds.append(took)
        assert found.known.all()
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return {"p50_ms": float(p50), "p95_ms": float(p95), "open_ms": opened * 1e3, "anonymous_gib": _anonymous_gib()}


def _anonymous_gib() -> float:
    """Memory of this process without mapped file pages, which the system can reclaim."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / GIB


def _read_parquet(artifact: Built, items: int, repeats: int) -> float:
    """The median time in milliseconds."""
    path, columns = artifact.path / f"{VIEW}.parquet", ["item_id", "vector", "present", "content_sha256"]
    seconds = []
    for asked in _questions(items, repeats):
        took, table = timed(
            lambda asked=asked: pq.read_table(
                path, columns=columns, filters=[("item_id", "in", asked)], partitioning=None
            )
        )
        seconds.append(took)
        assert len(table) == len(set(asked))
    return float(np.median(seconds) * 1e3)


def _questions(items: int, repeats: int) -> list[list[str]]:
    dice = np.random.default_rng(2)
    return [[item_id(row) for row in dice.integers(0, items, ASKED).tolist()] for _ in range(repeats)]


if __name__ == "__main__":
    main()
