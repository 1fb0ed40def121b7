"""From raw ratings to sequences and splits: compared with plain Python, and with DuckDB only reading the same file.

The ratings are synthetic (`benchmarks.synthetic`). Our run consists of ingest, interactions and sequences, each with
its Parquet files, in one process, like three steps of the pipeline. The plain read is DuckDB's ``read_csv`` with given
column types and the same number of threads, into a table of a database file, so both leave the rows on disk. A read
into a table in memory is also measured, although its result is lost when the process ends.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from benchmarks import plain_recipe
from benchmarks.measure import Measured, arguments, measured, median, show
from benchmarks.synthetic import write_items, write_ratings
from warehouse.core.interactions import build_interactions
from warehouse.core.sequences import build_sequences
from warehouse.duck import Engine
from warehouse.raw.ratings import ingest_ratings

K = 5
AGAINST_PYTHON = 2_000_000


def main() -> None:
    """Generate, measure, print."""
    given = arguments(__doc__ or "", rows=45_700_000, repeats=3, folder="", memory="3GB")
    rows = 200_000 if given.quick else given.rows
    repeat = 1 if given.quick else given.repeats
    with tempfile.TemporaryDirectory(dir=given.folder or None) as name:
        folder = Path(name)
        figures = _against_the_read(folder, rows, repeat, given.memory)
        figures |= _against_python(folder, min(rows, AGAINST_PYTHON), repeat)
    show(f"raw ratings to sequences, {rows:,} rows, {Engine().threads} threads", figures, given.json)


def _against_the_read(folder: Path, rows: int, repeat: int, memory: str) -> dict[str, Any]:
    source, items = _generate(folder, rows)
    reads: list[Measured] = []
    in_memory: list[Measured] = []
    wholes: list[Measured] = []
    for _ in range(repeat):
        in_memory.append(measured(_read, source, ":memory:"))
        reads.append(measured(_read, source, str(folder / "read.duckdb")))
        (folder / "read.duckdb").unlink()
        wholes.append(measured(_build, source, items, folder / "out", memory))
    ratios = _ratios(wholes, reads)
    steps: list[dict[str, float]] = [whole.result for whole in wholes]
    return {
        "rows": rows,
        "times_csv_read": ratios[len(ratios) // 2],
        "times_csv_read_best": ratios[0],
        "times_csv_read_worst": ratios[-1],
        "times_csv_read_in_memory": median(wholes) / median(in_memory),
        "rows_per_second": rows / median(wholes),
        "peak_rss_gib": max(whole.peak_rss_gib for whole in wholes),
        "seconds": median(wholes),
        "csv_read_seconds": median(reads),
        "csv_read_in_memory_seconds": median(in_memory),
        "csv_read_peak_rss_gib": max(read.peak_rss_gib for read in reads),
        **{f"{step}_seconds": sorted(run[step] for run in steps)[len(steps) // 2] for step in steps[0]},
    }


def _against_python(folder: Path, rows: int, repeat: int) -> dict[str, Any]:
    source, items = _generate(folder, rows)
    ours: list[Measured] = []
    plain: list[Measured] = []
    for _ in range(repeat):  # in turns, so that a slow phase of the machine affects both
        # One unmeasured run first: while plain Python runs, the system may drop the file and libraries from memory.
        measured(_build, source, items, folder / "out", "3GB")
        ours.append(measured(_build, source, items, folder / "out", "3GB"))
        plain.append(measured(_plain, source, items, folder / "plain"))
    ratios = _ratios(plain, ours)
    memory = max(run.peak_rss_bytes for run in ours) / max(run.peak_rss_bytes for run in plain)
    return {
        "speedup": ratios[len(ratios) // 2],
        "speedup_worst": ratios[0],
        "memory_ratio": memory,
        "speedup_rows": rows,
        "plain_python_seconds": median(plain),
    }


def _ratios(runs: Sequence[Measured], others: Sequence[Measured]) -> list[float]:
    """The ratio of seconds of each pair of runs, smallest first."""
    return sorted(run.seconds / other.seconds for run, other in zip(runs, others, strict=True))


def _generate(folder: Path, rows: int) -> tuple[Path, Path]:
    source, items = folder / f"{rows}.csv", folder / f"{rows}.parquet"
    if not source.exists():
        write_ratings(source, rows)
        write_items(items, rows)
    return source, items


def _build(source: Path, items: Path, out: Path, memory: str) -> dict[str, float]:
    """All three steps as the assets run them. Returns the seconds of each step."""
    shutil.rmtree(out, ignore_errors=True)
    folders = [out / name for name in ("ratings", "interactions", "sequences")]
    for folder in folders:
        folder.mkdir(parents=True)
    engine = Engine(memory=memory)
    times = [time.perf_counter()]
    ingest_ratings(source, folders[0])
    times.append(time.perf_counter())
    build_interactions(folders[0] / "ratings.parquet", items, folders[1], engine=engine)
    times.append(time.perf_counter())
    build_sequences(folders[1] / "interactions.parquet", folders[2], K, engine=engine)
    times.append(time.perf_counter())
    return {folder.name: end - start for folder, (start, end) in zip(folders, pairwise(times), strict=True)}


def _plain(source: Path, items: Path, out: Path) -> dict[str, int]:
    out.mkdir(exist_ok=True)
    return plain_recipe.run(source, set(pq.read_table(items)["item_id"].to_pylist()), out, K)


def _read(source: Path, database: str) -> int:
    connection = duckdb.connect(database, config={"threads": Engine().threads})
    connection.execute("SET enable_progress_bar = false")
    (rows,) = connection.execute(
        """
        CREATE TABLE ratings AS
        SELECT *
        FROM read_csv(
            $source,
            header = false,
            columns = {'item_id': 'VARCHAR', 'user_id': 'VARCHAR', 'rating': 'FLOAT', 'time': 'BIGINT'}
        )
        """,
        {"source": str(source)},
    ).fetchone() or (0,)
    connection.close()
    return int(rows)


if __name__ == "__main__":
    main()
