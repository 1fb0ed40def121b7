"""The speed at which `warehouse.raw.metadata` reads a product file, compared with DuckDB's `read_json`.

``python -m benchmarks.metadata [--quick] [--json]``. The file is a seeded json.gz with 400 MB of text (8 with --quick).
Our reader checks every line and writes Parquet. DuckDB, on two threads, reads the same fields into a table in memory,
with declared types (`read_json`) or detected types (`read_json_auto`), or also writes Parquet
(`read_json_to_parquet`). Each run has its own process. The runs take turns; the figures are medians.
"""

import gzip
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.measure import Measured, arguments, measured, median, show
from warehouse.raw.metadata import ingest_metadata

TEXTS: Final = "VARCHAR[]"
COLUMNS: Final = {
    "asin": "VARCHAR",
    "title": "VARCHAR",
    "brand": "VARCHAR",
    "description": TEXTS,
    "category": TEXTS,
    "imageURL": TEXTS,
    "imageURLHighRes": TEXTS,
}
DECLARED: Final = f"columns = {COLUMNS}"
FOUND: Final = "auto_detect = true"


def main() -> None:
    """Write the file, measure, show the figures."""
    options = arguments(__doc__ or "", repeats=5)
    megabytes = 8 if options.quick else 400
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "meta_Benchmark.json.gz"
        size, products = write_metadata(source, megabytes * 1_000_000)
        ours: list[Measured] = []
        declared: list[Measured] = []
        found: list[Measured] = []
        copied: list[Measured] = []
        for turn in range(options.repeats):
            ours.append(measured(read_ours, source, Path(folder) / f"turn-{turn}"))
            declared.append(measured(read_with_duckdb, source, DECLARED))
            found.append(measured(read_with_duckdb, source, FOUND))
            copied.append(measured(read_with_duckdb, source, DECLARED, Path(folder) / "copied.parquet"))
    assert {run.result for run in ours + declared + found + copied} == {products}
    show(
        f"{products:,} products, {size / 1e6:,.0f} MB of text, {options.repeats} turns",
        {
            "times_read_json": median(ours) / median(declared),
            "times_read_json_auto": median(ours) / median(found),
            "times_read_json_to_parquet": median(ours) / median(copied),
            "seconds": median(ours),
            "mb_per_second": size / 1e6 / median(ours),
            "peak_rss_gib": max(run.peak_rss_gib for run in ours),
            "read_json_seconds": median(declared),
            "read_json_peak_rss_gib": max(run.peak_rss_gib for run in declared),
            "times_read_json_best": _best(ours) / _best(declared),
            "spread_percent": 100 * (max(run.seconds for run in ours) / _best(ours) - 1),
        },
        options.json,
    )


def read_ours(source: Path, out: Path) -> int:
    """The number of products, after reading them into Parquet files."""
    out.mkdir()
    return ingest_metadata(source, out).rows


def read_with_duckdb(source: Path, options: str, parquet: Path | None = None) -> int:
    """The number of products, after reading them into a table in memory or into Parquet with our compression."""
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET enable_progress_bar = false")
        products = (
            f"SELECT {', '.join(COLUMNS)} "  # noqa: S608
            f"FROM read_json('{source}', format = 'newline_delimited', ignore_errors = false, {options})"
        )
        if parquet:
            to = f"TO '{parquet}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
            done = connection.execute(f"COPY ({products}) {to}").fetchone()
        else:
            done = connection.execute(f"CREATE TABLE products AS {products}").fetchone()
        return int(done[0]) if done else 0


def write_metadata(path: Path, size: int, seed: int = 0) -> tuple[int, int]:
    """Write products until their lines have `size` bytes. Returns the number of bytes and of products."""
    written = count = 0
    with gzip.open(path, "wb", compresslevel=6) as file:
        for product in _products(random.Random(seed)):
            line = json.dumps(product).encode() + b"\n"
            file.write(line)
            written, count = written + len(line), count + 1
            if written >= size:
                return written, count
    raise AssertionError("products never end")


def _products(dice: random.Random) -> Iterator[dict[str, Any]]:
    """Products like those of Amazon 2018: long texts and lists of links, scraped HTML, and empty values if missing."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(dice.choices(letters, range(26, 0, -1), k=dice.randint(2, 11))) for _ in range(20_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    spice = ["&amp;", "<br/>", "it\u2019s", "\u2122", '12"', "", "", "", "", ""]
    sentences = [
        " ".join([*dice.choices(words, cum_weights=weights, k=dice.randint(6, 24)), dice.choice(spice)]).capitalize()
        + "."
        for _ in range(30_000)
    ]
    asins = [f"B{dice.randrange(36**5):08X}0" for _ in range(100_000)]
    names = [" ".join(dice.choices(words, k=2)).title() for _ in range(5000)]
    photo = "https://images-na.ssl-images-amazon.com/images/I/"
    for number, asin in enumerate(iter(lambda: f"B{dice.randrange(36**5):08X}1", None)):
        pictures = ["".join(dice.choices(letters, k=11)) for _ in range(dice.choice((0, 0, 1, 3, 5, 7)))]
        brand, linked = dice.choice(names), dice.choice((0, 0, 4, 12, 30, 60))
        yield {
            "category": ["Benchmark", *dice.sample(names[:200], dice.randint(1, 5))],
            "tech1": "",
            "description": [" ".join(dice.choices(sentences, k=dice.randint(1, 8))) for _ in range(dice.randint(0, 3))],
            "fit": "",
            "title": dice.choice(sentences) if number % 9 else '<span class="a-size-medium a-color-secondary"',
            "also_buy": dice.sample(asins, linked),
            "tech2": "",
            "brand": brand,
            "feature": dice.sample(sentences, dice.choice((0, 2, 5))),
            "rank": [f">#{dice.randrange(10**6):,} in Benchmark (See Top 100 in Benchmark)"],
            "also_view": dice.sample(asins, linked // 2),
            "details": {"Shipping Weight:": "3.2 ounces", "ASIN: ": asin, "Publisher:": brand},
            "main_cat": "Benchmark",
            "similar_item": "",
            "date": "",
            "price": f"${dice.randrange(10**4) / 100}" if number % 3 else "",
            "asin": asin,
            "imageURL": [f"{photo}{name}._SX38_SY50_CR,0,0,38,50_.jpg" for name in pictures],
            "imageURLHighRes": [f"{photo}{name}.jpg" for name in pictures],
        }


def _best(runs: Sequence[Measured]) -> float:
    """The smallest number of seconds, which is more stable than the median on a shared machine."""
    return min(run.seconds for run in runs)


if __name__ == "__main__":
    main()
