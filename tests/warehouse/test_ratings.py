"""raw/ratings: every line is a row or in quarantine, and the fast reader says what the plain one says."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.errors import DataError
from warehouse.raw import lines as raw
from warehouse.raw import ratings as room
from warehouse.raw.rating_rows import Rating
from warehouse.raw.ratings import ingest_ratings, read_line

Stage = Callable[[], Path]

GOOD = b"B001,A1,5.0,1100000000"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "wrong number of fields"),
        (b"B001,A1,5.0", "wrong number of fields"),
        (b"B001,A1,5.0,1100000000,x", "wrong number of fields"),
        (b"\xff\xfe,A1,5.0,1100000000", "not UTF-8"),
        (b"B0\x0001,A1,5.0,1100000000", "control character"),
        (b"B001,A\r1,5.0,1100000000", "control character"),
        (b"B001\tA1\t5.0\t1100000000", "tabs between the fields, not commas"),
        (b"B001;A1;5.0;1100000000", "semicolons between the fields, not commas"),
        (b",A1,5.0,1100000000", "empty id"),
        (b"B001,,5.0,1100000000", "empty id"),
        (b"B" * 256 + b",A1,5.0,1100000000", "id is too long"),
        (b"B001,A1,five,1100000000", "rating is not a finite number"),
        (b"B001,A1,,1100000000", "rating is not a finite number"),
        (b"B001,A1,nan,1100000000", "rating is not a finite number"),
        (b"B001,A1,inf,1100000000", "rating is not a finite number"),
        (b"B001,A1,1e39,1100000000", "rating is not a finite number"),
        (b"B001,A1,5_0,1100000000", "rating is not a finite number"),
        (b"item,user,rating,timestamp", "rating is not a finite number"),
        (b"B001,A1,5.0,", "time is not a whole number"),
        (b"B001,A1,5.0,1100000000.5", "time is not a whole number"),
        (b"B001,A1,5.0,0x1F", "time is not a whole number"),
        (b"B001,A1,5.0,-1", "time is out of range"),
        (b"B001,A1,1100000000,5", "rating and time are swapped"),
        (b"B001,A1,5.0,1100000000000", "time is in milliseconds, not in seconds"),
        (b"B001,A1,5.0,4102444801", "time is out of range"),
        (b"B001,A1,5.0,1100000000000000", "time is out of range"),
        (b"B001,A1,5.0," + b"9" * 400, "time is not a whole number"),
        (b"B001,A1,5.0,1" + b" " * (64 << 10), "line is too long"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(stage: Stage, line: bytes, reason: str) -> None:
    out = stage()
    source = out.with_suffix(".csv")
    source.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    summary = ingest_ratings(source, out)
    assert (summary.lines, summary.rows, summary.reasons) == (3, 2, {reason: 1})
    assert pq.read_table(out / "ratings.parquet")["line"].to_pylist() == [1, 3]
    (row,) = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert (row["line"], row["reason"]) == (2, reason)
    assert len(row["raw"]) <= 500


@pytest.mark.parametrize(
    ("line", "rating"),
    [
        (GOOD, Rating("B001", "A1", 5.0, 1_100_000_000)),
        (b"B001,A1,3,1100000000", Rating("B001", "A1", 3.0, 1_100_000_000)),
        (b"B001,A1,5.0,1.1e9", Rating("B001", "A1", 5.0, 1_100_000_000)),
        (b'"B001",A"1,4.5,0', Rating('"B001"', 'A"1', 4.5, 0)),
        ("Bücher,Zoë,1,1".encode(), Rating("Bücher", "Zoë", 1.0, 1)),
    ],
)
def test_a_good_line_is_kept_as_it_is(stage: Stage, line: bytes, rating: Rating) -> None:
    out = stage()
    source = out.with_suffix(".csv")
    source.write_bytes(line)
    assert ingest_ratings(source, out).rows == 1
    assert pq.read_table(out / "ratings.parquet").to_pylist() == [{"line": 1, **rating._asdict()}]
    assert read_line(line) == rating


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_line_ends_byte_order_mark_and_gzip_change_nothing(
    stage: Stage, end: bytes, prefix: bytes, compress: Callable[[bytes], bytes]
) -> None:
    out = stage()
    source = out.with_suffix(".csv")
    source.write_bytes(compress(prefix + GOOD + end + GOOD + end))
    assert ingest_ratings(source, out).rows == 2
    assert pq.read_table(out / "ratings.parquet")["item_id"].to_pylist() == ["B001", "B001"]


def test_a_giant_line_costs_no_memory_and_no_neighbour(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_BLOCK_BYTES", 1 << 16)
    out = stage()
    source = out.with_suffix(".csv")
    source.write_bytes(GOOD + b"\n" + b"x" * 5_000_000 + b"\n" + GOOD + b"\n" + b"y" * 5_000_000)
    summary = ingest_ratings(source, out)
    assert (summary.lines, summary.rows, summary.reasons) == (4, 2, {"line is too long": 2})
    assert pq.read_table(out / "quarantine.parquet")["line"].to_pylist() == [2, 4]


_fields = b'B1 A1 5 1.5 -0 nan 0x10 1e5 +3 .5 5. infinity 1e400 12345678901 \xc3\xa4 \xef\xbb\xbf \x00 "'.split(b" ")
_dirt = st.one_of(
    st.just(GOOD),
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b" ")),
    st.lists(st.sampled_from([*_fields, b"", b" 2", b"3 ", b"7\r"]), min_size=3, max_size=5).map(b",".join),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_dirt, min_size=1, max_size=40), st.booleans(), st.sampled_from([8, 64, 32 << 10]))
def test_the_fast_reader_agrees_with_the_plain_one(
    stage: Stage, lines: list[bytes], ends: bool, line_by_line: int
) -> None:
    out = stage()
    source = out.with_suffix(".csv")
    source.write_bytes(b"\n".join([GOOD, *lines]) + b"\n" * ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_LINE_BY_LINE_BYTES", line_by_line)
        summary = ingest_ratings(source, out)
    read = source.read_bytes().replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    plain = {number: read_line(line) for number, line in enumerate(read, 1)}
    assert summary.lines == len(read) == summary.rows + summary.quarantined
    rows = {row.pop("line"): tuple(row.values()) for row in pq.read_table(out / "ratings.parquet").to_pylist()}
    aside = {row["line"]: row["reason"] for row in pq.read_table(out / "quarantine.parquet").to_pylist()}
    assert rows == {number: tuple(row) for number, row in plain.items() if isinstance(row, Rating)}
    assert aside == {number: row for number, row in plain.items() if isinstance(row, str)}


def test_many_blocks_and_scattered_dirt_add_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_BLOCK_BYTES", 1 << 18)
    lines = [f"B{i % 97},A{i},{i % 5 + 1}.0,{1_000_000_000 + i}".encode() for i in range(100_000)]
    for bad in range(1000, 100_000, 9973):
        lines[bad] = b"\xff" + lines[bad]
    out, seen = stage(), []
    source = out.with_suffix(".csv.gz")
    source.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    summary = ingest_ratings(source, out, lambda done, total: seen.append((done, total)))
    assert summary.lines == 100_000
    assert summary.reasons == {"not UTF-8": 10}
    table = pq.read_table(out / "ratings.parquet")
    assert table["line"].to_pylist() == [n for n, line in enumerate(lines, 1) if not line.startswith(b"\xff")]
    assert table["user_id"].to_pylist()[-1] == "A99999"
    assert seen[-1][0] == seen[-1][1] == source.stat().st_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be opened"),
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (gzip.compress(GOOD * 1000, mtime=0)[:40], "cut or damaged"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "cut or damaged"),
        (b"\x1f\x8b", "cut or damaged"),
        (gzip.compress(GOOD, mtime=0) + b"\n", "bytes after the end of its gzip stream"),
        (2 * gzip.compress(GOOD, mtime=0) + b"<html>" * 99, "bytes after the end of its gzip stream"),
        (b"not a rating\n" * 3, "none of its 3 lines is a rating"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(stage: Stage, content: bytes | None, message: str) -> None:
    out = stage()
    source = out.with_suffix(".csv")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        ingest_ratings(source, out)
    assert str(source) in str(error.value)


@pytest.mark.parametrize(("share", "refused"), [(20, True), (5, False)])
def test_a_file_of_another_kind_is_not_read_to_its_end(
    share: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in `share` is a rating. Without the limit, blank lines cost a second a kilobyte of gzip."""
    monkeypatch.setattr(raw.Quarantine, "_ALWAYS", 1000)
    source = tmp_path / "ratings.csv.gz"
    source.write_bytes(gzip.compress((GOOD + b"\n" * share) * 1000))
    if not refused:
        assert ingest_ratings(source, tmp_path).reasons == {"wrong number of fields": 1000 * (share - 1)}
        return
    with pytest.raises(DataError, match=r"only \d+ of its first 1,\d\d\d lines could be read as a rating"):
        ingest_ratings(source, tmp_path)


def test_a_raw_file_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ratings.csv")
    (tmp_path / "link.csv").symlink_to("/dev/zero")
    for name in ("ratings.csv", "link.csv"):
        with pytest.raises(DataError, match=r"cannot be opened \(not a regular file"):
            ingest_ratings(tmp_path / name, tmp_path)
