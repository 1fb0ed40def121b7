"""Histories of many users at once, against a plain statement of them: never a row of the moment itself or later."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import Recipe, Store
from warehouse.catalogue.histories import StoredHistories
from warehouse.duck import Engine
from warehouse.errors import DataError
from warehouse.tables import TABLES

DAY = 86_400


class Row(NamedTuple):
    user_id: str
    item_id: str
    time: int


def _histories(rows: list[Row], root: Path) -> StoredHistories:
    """Over core/interactions alone; a row's place in the list is its place in the raw file."""

    def build(out: Path) -> dict[str, int]:
        columns = [
            {"position": at, "user_id": r.user_id, "item_id": r.item_id, "rating": float(at % 5 + 1), "time": r.time}
            for at, r in enumerate(rows, 1)
        ]
        table = pa.Table.from_pylist(columns, TABLES["core/interactions/interactions"])
        pq.write_table(table, out / "interactions.parquet", row_group_size=3)
        return {}

    store = Store(root)
    store.publish(Recipe("core/interactions", "Mugs", "code", {}, {"seed": str(rows)}, {}), build)
    return StoredHistories(store, Engine(threads=2, memory="1GB"))


def _plain(rows: list[Row], user: str, as_of: float) -> dict[str, Any]:
    """The twin, in plain Python."""
    found = sorted((r.time, at, r.item_id) for at, r in enumerate(rows, 1) if r.user_id == user and r.time < as_of)
    return {
        "user_id": user,
        "item_ids": [item for _, _, item in found],
        "times": [time for time, _, _ in found],
        "ratings": [at % 5 + 1 for _, at, _ in found],
    }


USERS = st.sampled_from(["A", "B", "C", "nobody"])
# Few users, few days, so that ties and borders are met.
TIMES = st.integers(0, 4).map(lambda day: day * DAY) | st.integers(0, 3)
ROWS = st.lists(st.builds(Row, USERS.filter("nobody".__ne__), st.sampled_from("xyz"), TIMES), min_size=1, max_size=30)


@pytest.mark.long
@given(ROWS, st.lists(st.tuples(USERS, TIMES | st.integers(-1, 5 * DAY))), TIMES)
@settings(max_examples=30, deadline=None)
def test_a_history_is_what_was_before(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], asked: list[tuple[str, int]], moment: int
) -> None:
    histories = _histories(rows, tmp_path_factory.mktemp("store"))
    users = [user for user, _ in asked]
    several = histories.histories("Mugs", users, [at for _, at in asked])
    assert several.to_pylist() == [_plain(rows, user, at) for user, at in asked]
    one = histories.histories("Mugs", users, moment)
    assert one.to_pylist() == [_plain(rows, user, moment) for user in users]


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> StoredHistories:
    """One user, three days, two ratings on the second."""
    rows = [Row("A", item, day * DAY) for item, day in (("w", 3), ("x", 2), ("y", 2), ("z", 1))]
    return _histories(rows, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    ("as_of", "items"),
    [
        (2 * DAY, "z"),
        (2 * DAY + 0.5, "zxy"),
        (np.int64(2 * DAY), "z"),
        (date(1970, 1, 3), "z"),
        ("1970-01-03", "z"),
        (datetime(1970, 1, 3, tzinfo=UTC), "z"),
        (datetime(1970, 1, 3, 0, 0, 1, tzinfo=UTC).astimezone(timezone(timedelta(hours=13))), "zxy"),
        (datetime(1970, 1, 3, tzinfo=UTC).replace(tzinfo=None), "z"),
        ("1970-01-03T02:00:00+01", "zxy"),
        ("2100-01-01", "zxyw"),
        (0, ""),
    ],
)
def test_a_moment_may_be_told_in_many_ways(histories: StoredHistories, as_of: Any, items: str) -> None:
    for moment in (as_of, [as_of]):
        assert "".join(histories.histories("Mugs", ["A"], moment)["item_ids"].to_pylist()[0]) == items


def test_the_columns_have_their_types_whoever_is_asked(histories: StoredHistories) -> None:
    for users in ([], ["nobody"], ["A"]):
        answer = histories.histories("Mugs", users, np.full(len(users), 9 * DAY))
        assert {field.name: str(field.type) for field in answer.schema} == {
            "user_id": "string",
            "item_ids": "list<item: string>",
            "times": "list<item: int64>",
            "ratings": "list<item: float>",
        }
        assert len(answer) == len(users)


@pytest.mark.parametrize("as_of", ["soon", "nan", "inf", float("inf"), 1e300])
def test_a_moment_that_is_none(histories: StoredHistories, as_of: Any) -> None:
    with pytest.raises(DataError, match="not a moment"):
        histories.histories("Mugs", ["A"], as_of)


@pytest.mark.parametrize("as_of", [[], [1], [1, 2, 3], [1, None]])
def test_as_many_moments_as_users(histories: StoredHistories, as_of: Any) -> None:
    with pytest.raises(DataError, match="give one moment for all users, or one for each"):
        histories.histories("Mugs", ["A", "A"], as_of)


def test_a_domain_without_interactions(histories: StoredHistories) -> None:
    with pytest.raises(StoreError, match="core/interactions of Pots has not been built"):
        histories.histories("Pots", ["A"], 1)


def test_names_are_no_sql(histories: StoredHistories, tmp_path: Path) -> None:
    evil = "A'; DROP TABLE asked; --"
    rows = [Row(evil, "x", 1), Row("B", "y", 1)]
    folder = tmp_path / "it's [a] *.folder?"
    assert _histories(rows, folder).histories("Mugs", [evil], 2)["item_ids"].to_pylist() == [["x"]]
