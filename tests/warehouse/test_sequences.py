"""core/interactions and core/sequences: the recipe against a plain-Python twin, and its exact figures."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import plain_recipe
from benchmarks.plain_recipe import Row
from warehouse.artifacts.store import Store
from warehouse.checks import violations
from warehouse.core.interactions import _Fingerprints, build_interactions
from warehouse.core.sequences import _in_order, build_sequences
from warehouse.core.settings import LEAVE_ONE_OUT, GlobalTimeSplit, SplitRule, Wanted
from warehouse.duck import Engine
from warehouse.errors import DataError
from warehouse.parquet import ROW_GROUP
from warehouse.raw.rating_rows import LATEST_TIME
from warehouse.tables import TABLES

Stage = Callable[[], Path]


def write_interactions(path: Path, rows: Iterable[Row]) -> Path:
    """Rows of core/interactions as a Parquet file."""
    schema = TABLES["core/interactions/interactions"]
    pq.write_table(pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema), path)
    return path


def write_ratings(path: Path, rows: Iterable[Row]) -> Path:
    """Rows of raw/ratings as a Parquet file."""
    schema = TABLES["raw/ratings/ratings"]
    columns = [
        {"line": r.position, "item_id": r.item, "user_id": r.user, "rating": r.rating, "time": r.time} for r in rows
    ]
    pq.write_table(pa.Table.from_pylist(columns, schema), path)
    return path


_ids = st.sampled_from(["a", "B", "b", "é", "a1", "\U0001f600", "z'"])
# Some beyond 2038-01-19, when signed 32 bits end.
_times = st.integers(0, 6) | st.sampled_from([2**31 - 1, 2**31, LATEST_TIME])
_rows = st.lists(st.tuples(_ids, _ids, st.sampled_from([1.0, 2.5, 5.0]), _times), min_size=5, max_size=80).map(
    lambda rows: [Row(position * 3 + 1, *row) for position, row in enumerate(rows)]
)
_borders = st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _rows,
    st.sampled_from([3, 4, 5]),
    st.just(LEAVE_ONE_OUT) | _borders.map(lambda pair: GlobalTimeSplit(*pair)),
    st.none() | st.integers(3, 6),
)
def test_the_recipe_is_the_plain_one(
    stage: Stage, rows: list[Row], k: int, split: SplitRule, max_length: int | None
) -> None:
    core = plain_recipe.k_core(rows, k)
    assert core == one_by_one(rows, k)
    expected = plain_recipe.sequences(core, split, max_length)
    out = stage()
    source = write_interactions(out.with_suffix(".parquet"), rows)
    if not any(part == "train" for sequence in expected.values() for _, part in sequence):
        with pytest.raises(DataError, match="nothing to train on" if core else "lower k"):
            build_sequences(source, out, k, split, max_length, Engine(threads=2))
        return
    summary = build_sequences(source, out, k, split, max_length, Engine(threads=2))
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("sequences", "users", "items", "interactions")}
    for name, table in tables.items():
        assert table.schema.equals(TABLES[f"core/sequences/{name}"])
    items = {row["item_index"]: row for row in tables["items"].to_pylist()}
    names = sorted({row.item for sequence in expected.values() for row, _ in sequence}, key=str.encode)
    assert {index: row["item_id"] for index, row in items.items()} == dict(enumerate(names, 1))

    # One row a user.
    assert tables["users"].to_pylist() == [{"user_index": n, "user_id": user} for n, user in enumerate(expected, 1)]
    for found, (user, sequence) in zip(tables["sequences"].to_pylist(), expected.items(), strict=True):
        assert found["user_id"] == user
        assert [items[index]["item_id"] for index in found["items"]] == [row.item for row, _ in sequence]
        assert found["times"] == [row.time for row, _ in sequence]
        assert found["ratings"] == [row.rating for row, _ in sequence]
        parts = Counter(part for _, part in sequence)
        assert (found["training"], found["validation"]) == (parts["train"], parts["validation"])

    # One row an interaction: the same order, in total.
    flat = [
        (user, step, row.item, row.time, row.rating, part)
        for user, sequence in expected.items()
        for step, (row, part) in enumerate(sequence, 1)
    ]
    columns = ("user_id", "step", "item_id", "time", "rating", "split")
    assert [tuple(row[name] for name in columns) for row in tables["interactions"].to_pylist()] == flat
    training = Counter(row[2] for row in flat if row[5] == "train")
    everything = Counter(row[2] for row in flat)
    assert {row["item_id"]: row["interactions"] for row in items.values()} == everything
    assert {row["item_id"]: row["training_interactions"] for row in items.values()} == {
        name: training[name] for name in everything
    }
    assert (summary.users, summary.items, summary.interactions) == (len(expected), len(names), len(flat))
    assert summary.training_interactions == sum(training.values())
    assert summary.interactions + summary.dropped_interactions == len(rows)
    assert summary.split_sha256 == _plain_split_sha256(flat)
    bound = {name: getattr(summary, name) for name in ("k", "max_length", "split", "validation_from", "test_from")}
    assert not any(violations("check_sequences", {"interactions": out / "interactions.parquet"}, **bound).values())


def one_by_one(rows: list[Row], k: int) -> list[Row]:
    """The k-core with one row removed at a time: that the fixed point is the same in any order of removal."""
    rows = list(rows)
    while True:
        users, items = Counter(row.user for row in rows), Counter(row.item for row in rows)
        weak = next((row for row in rows if users[row.user] < k or items[row.item] < k), None)
        if weak is None:
            return rows
        rows.remove(weak)


@pytest.mark.long
@pytest.mark.parametrize("bits", [64, 6])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _rows,
    st.sets(_ids, min_size=1),
    st.builds(
        Wanted,
        st.none() | st.sampled_from([2.0, 2.5, 5.0]),
        st.none() | st.integers(0, 5),
        st.none() | st.integers(1, 7),
    ),
)
def test_interactions_are_the_plain_ones(
    stage: Stage, bits: int, rows: list[Row], known: set[str], wanted: Wanted
) -> None:
    """Also where fingerprints of different rows are mostly equal."""
    kept, rejected = plain_recipe.interactions(rows, known, wanted)
    folder, out = stage(), stage()
    ratings = write_ratings(folder / "ratings.parquet", rows)
    pq.write_table(pa.table({"item_id": sorted(known)}), folder / "items.parquet")
    if not kept:
        with pytest.raises(DataError, match=r"same category|user and item swapped|differ only in capitals"):
            build_interactions(ratings, folder / "items.parquet", out, wanted)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Fingerprints, "BITS", bits)
        summary = build_interactions(ratings, folder / "items.parquet", out, wanted, Engine(threads=2))
    found = pq.read_table(out / "interactions.parquet").to_pylist()
    names = ("position", "user_id", "item_id", "rating", "time")
    assert [Row(*(row[name] for name in names)) for row in found] == kept
    found = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [tuple(row.values()) for row in found] == [(r.position, r.user, r.item, why) for r, why in rejected]
    assert {why: count for why, count in summary.rejected.items() if count} == Counter(why for _, why in rejected)
    assert summary.ratings == summary.interactions + sum(summary.rejected.values()) == len(rows)


def _plain_split_sha256(flat: list[tuple[Any, ...]]) -> str:
    users, items = (sorted({row[column] for row in flat}, key=str.encode) for column in (0, 2))
    digest = hashlib.sha256("".join(f"{name}\n" for name in [*users, *items]).encode())
    digest.update(b"".join(users.index(row[0]).to_bytes(4, "little") for row in flat))
    digest.update(b"".join(items.index(row[2]).to_bytes(4, "little") for row in flat))
    digest.update(b"".join(row[3].to_bytes(8, "little") for row in flat))
    digest.update(bytes(("train", "validation", "test").index(row[5]) for row in flat))
    return digest.hexdigest()


def test_repeated_ratings_and_unknown_items_are_rejected_with_their_reason(stage: Stage) -> None:
    folder, out = stage(), stage()
    ratings = [
        (1, "B1", "A", 5.0, 7),
        (2, "B1", "A", 5.0, 7),  # the same again
        (3, "B1", "A", 4.0, 7),  # another rating
        (4, "B1", "A", 5.0, 8),  # another time
        (6, "B9", "A", 5.0, 7),  # no metadata
        (7, "B9", "A", 5.0, 7),  # the same again: the first reason that holds is given
        (9, "B1", "A", 5.0, 7),
    ]
    schema = TABLES["raw/ratings/ratings"]
    rows = [dict(zip(schema.names, row, strict=True)) for row in ratings]
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "ratings.parquet")
    pq.write_table(pa.table({"item_id": ["B0", "B1"]}), folder / "items.parquet")
    summary = build_interactions(folder / "ratings.parquet", folder / "items.parquet", out)
    assert (summary.ratings, summary.interactions) == (7, 3)
    assert summary.rejected == {
        "exact_duplicate": 3,
        "no_metadata": 1,
        "below_minimum_rating": 0,
        "outside_time_window": 0,
    }
    assert pq.read_table(out / "interactions.parquet")["position"].to_pylist() == [1, 3, 4]
    rejected = pq.read_table(out / "rejected.parquet")
    assert dict(zip(rejected["line"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == {
        2: "exact_duplicate",
        6: "no_metadata",
        7: "exact_duplicate",
        9: "exact_duplicate",
    }
    pq.write_table(pa.table({"item_id": ["other"]}), folder / "items.parquet")
    with pytest.raises(DataError, match="same category"):
        build_interactions(folder / "ratings.parquet", folder / "items.parquet", stage())


@pytest.mark.parametrize(
    ("rated", "by", "known", "said"),
    [
        ("A1", "B001", "B001", "the ratings have user and item swapped: put the item first"),
        ('"B001"', "A1", "B001", "differ only in quotation marks, and only the ratings have them"),
        ("B001", "A1", "B001 ", "differ only in blanks, and only the metadata have them"),
        ("31852", "A1", "0000031852", "differ only in leading zeros, which spreadsheets drop, and only the metadata"),
        ("b001", "A1", "B001", "differ only in capitals"),
        ("C001", "A1", "B001", "check that the two raw files are of the same category"),
    ],
)
def test_where_no_rating_finds_its_item_both_ids_and_the_cause_are_said(
    stage: Stage, rated: str, by: str, known: str, said: str
) -> None:
    folder = stage()
    ratings = write_ratings(folder / "ratings.parquet", [Row(1, by, rated, 5.0, 1), Row(2, "A2", "other", 5.0, 2)])
    pq.write_table(pa.table({"item_id": [known]}), folder / "items.parquet")
    with pytest.raises(DataError, match=re.escape(said)) as error:
        build_interactions(ratings, folder / "items.parquet", stage())
    assert f"the first rating is of {rated!r} by {by!r}, and an item with metadata is {known!r}" in str(error.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_order_holds_for_every_time_that_a_rating_may_have(threads: int) -> None:
    random = np.random.default_rng(0)
    rows = np.arange(3 * ROW_GROUP)
    users = random.integers(0, 50, len(rows), dtype=np.int32)
    times = random.choice([0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, LATEST_TIME - 1, LATEST_TIME], len(rows))
    assert LATEST_TIME < 2**32
    assert np.array_equal(_in_order(users, times, threads), np.lexsort((rows, times, users)))


def test_k_below_three_is_refused(stage: Stage) -> None:
    source = write_interactions(stage() / "i.parquet", [(1, "a", "b", 1.0, 1)])
    with pytest.raises(DataError, match="set k to 3 or more"):
        build_sequences(source, stage(), 2)


@pytest.mark.long
def test_threads_and_memory_change_no_byte(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough rows for several row groups, so that threads have borders to disagree about."""
    generator = np.random.default_rng(7)
    size = 3 * ROW_GROUP
    users, items = (
        (generator.random(size) ** 2 * 40_000).astype(int),
        (generator.random(size) ** 2 * 3_000).astype(int),
    )
    schema = TABLES["raw/ratings/ratings"]
    folder = stage()
    columns = [
        np.arange(1, size + 1),
        pa.array([f"B{item}" for item in items]),
        pa.array([f"A{user}" for user in users]),
        generator.integers(1, 6, size).astype(np.float32),
        generator.integers(0, 500, size) * 86_400,
    ]
    pq.write_table(pa.table(dict(zip(schema.names, columns, strict=True))), folder / "ratings.parquet")
    pq.write_table(pa.table({"item_id": [f"B{item}" for item in range(2_900)]}), folder / "items.parquet")

    def hashes(engine: Engine) -> dict[str, str]:
        first, second = stage(), stage()
        build_interactions(folder / "ratings.parquet", folder / "items.parquet", first, engine=engine)
        build_sequences(first / "interactions.parquet", second, 5, engine=engine)
        files = sorted([*first.iterdir(), *second.iterdir()])
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    expected = hashes(Engine(threads=1))
    assert len(expected) == 5  # interactions.parquet of both artifacts share a name; nothing else is left behind
    assert hashes(Engine(threads=2)) == expected
    assert hashes(Engine(threads=7, memory="200MB")) == expected
    # Ids in several turns, as of more ratings than are held at once.
    monkeypatch.setattr("warehouse.core.numbering._ROWS_AT_ONCE", 100_000)
    assert hashes(Engine(threads=2)) == expected


@pytest.mark.parametrize(
    ("folder", "name", "k", "figures"),
    [
        ("amazon_2018", "Magazine_Subscriptions", 3, (2373, 518, 9636)),
        ("amazon_2018", "Magazine_Subscriptions", 5, (284, 126, 1950)),
        ("movies", "Movies_Source", 5, (942, 684, 49454)),
        ("movies", "Movies_Target", 5, (943, 658, 49668)),
    ],
)
def test_real_domains_give_the_published_figures(
    shared: Path,
    tmp_path: Path,
    materialise: Callable[..., Any],
    folder: str,
    name: str,
    k: int,
    figures: tuple[int, int, int],
) -> None:
    data = shared / "data" / folder
    domain = materialise(Store(tmp_path), name, data / f"{name}.csv", data / f"meta_{name}.json.gz", k)
    assert (domain.sequences.users, domain.sequences.items, domain.sequences.interactions) == figures
    assert domain.ratings.quarantined == domain.metadata.quarantined == 0
    if name == "Magazine_Subscriptions":
        assert domain.ratings.rows - domain.interactions.rejected["exact_duplicate"] == 88_468
        assert domain.interactions.interactions == 84_139
        assert (domain.items.metadata_rows, domain.items.items, domain.items.with_image_url) == (
            3385,
            2320,
            863,
        )
        assert domain.items.titles_without_text == 2163
