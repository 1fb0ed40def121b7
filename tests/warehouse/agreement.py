"""What every reader of raw files owes: each line once, as the plain reader says, the same bytes each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from warehouse.raw import metadata, ratings, reviews

Read = Callable[[bytes], Any]


def plain_product(line: bytes) -> Any:
    """What `metadata.read_line` says, without whether it was a literal."""
    read = metadata.read_line(line)
    return read if isinstance(read, str) else read[0]


READERS: dict[str, tuple[Callable[[Path, Path], Any], Read]] = {
    "metadata": (metadata.ingest_metadata, plain_product),
    "ratings": (ratings.ingest_ratings, ratings.read_line),
    "reviews": (reviews.ingest_reviews, reviews.read_line),
}


def lines_of(content: bytes) -> list[bytes]:
    """The lines of a file, stated once more: no byte order mark, either line end, none after the last."""
    return content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")


def assert_agrees(kind: str, source: Path, out: Path, content: bytes) -> dict[str, int]:
    """Read `source`, whose uncompressed bytes are `content`; hold it to the plain reader; return the reasons."""
    ingest, read_line = READERS[kind]
    summary = ingest(source, out)
    plain = dict(enumerate(map(read_line, lines_of(content)), 1))
    rows = pq.read_table(out / ("metadata.parquet" if kind == "metadata" else "ratings.parquet")).to_pylist()
    aside = pq.read_table(out / "quarantine.parquet").to_pylist()
    numbers = [row["line"] for row in rows], [row["line"] for row in aside]
    assert all(n == sorted(n) for n in numbers)
    assert sorted(numbers[0] + numbers[1]) == list(plain)
    assert {row["line"]: row["reason"] for row in aside} == {n: r for n, r in plain.items() if isinstance(r, str)}
    for row in rows:
        number = row.pop("line")
        assert tuple(row.values()) == tuple(plain[number]), number
    assert (summary.lines, summary.rows, summary.quarantined) == (len(plain), len(rows), len(aside))
    return dict(summary.reasons)
