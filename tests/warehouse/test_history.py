"""Histories as of a moment, against a plain statement of them: never a later row, none missing, one order."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.artifacts.store import Recipe, Store
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import Session
from warehouse.errors import DataError
from warehouse.tables import TABLES

DAY = 86_400
_folders = count()


class Row(NamedTuple):
    domain: str
    user_id: str
    item_id: str
    time: int


def _catalogue(rows: list[Row], folder: Path) -> Path:
    """A catalogue over core/interactions alone; a row's place in the list is its place in the raw file."""
    store = Store(folder / f"store-{next(_folders)}")
    for domain in {row.domain for row in rows}:

        def build(out: Path, domain: str = domain) -> dict[str, int]:
            columns = [
                {
                    "position": at,
                    "user_id": r.user_id,
                    "item_id": r.item_id,
                    "rating": float(at % 5 + 1),
                    "time": r.time,
                }
                for at, r in enumerate(rows, 1)
                if r.domain == domain
            ]
            table = pa.Table.from_pylist(columns, TABLES["core/interactions/interactions"])
            pq.write_table(table, out / "interactions.parquet", row_group_size=3)
            return {}

        store.publish(Recipe("core/interactions", domain, "code", {}, {}, {}), build)
    build_catalogue(store.all_current(), store.root / "warehouse.duckdb")
    return store.root / "warehouse.duckdb"


def _plain(rows: list[Row], domain: str, user: str, as_of: float) -> list[tuple[int, str]]:
    """The twin: (position, item) of the user's rows before `as_of`, in the order of (time, position)."""
    found = [(r.time, at, r.item_id) for at, r in enumerate(rows, 1) if (r.domain, r.user_id) == (domain, user)]
    return [(at, item) for time, at, item in sorted(found) if time < as_of]


# Few users, few days, so that ties and borders are met.
ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(["Mugs", "Pots"]),
        st.sampled_from(["A", "B", "C"]),
        st.sampled_from(["x", "y", "z"]),
        st.integers(0, 4).map(lambda day: day * DAY) | st.integers(0, 5 * DAY),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.long
@given(rows=ROWS, moments=st.lists(st.integers(-1, 5 * DAY), max_size=3))
@settings(max_examples=25, deadline=None)
def test_a_history_is_what_was_before(rows: list[Row], moments: list[int], tmp_path_factory: Any) -> None:
    borders = [moments[0] if moments else 0, *moments, rows[0].time, rows[0].time + 1, rows[-1].time, 9 * DAY]
    with Session(_catalogue(rows, tmp_path_factory.mktemp("history"))) as session:
        for as_of in borders:
            for domain in {row.domain for row in rows}:
                users = {row.user_id for row in rows if row.domain == domain}
                whole: dict[str, list[tuple[int, str]]] = {}
                for user in sorted(users | {"nobody"}):
                    bound = {"domain": domain, "user": user, "as_of": as_of}
                    answer = session.ask("FROM history($domain, $user, $as_of)", bound).to_pylist()
                    whole[user] = _plain(rows, domain, user, as_of)
                    assert [(row["position"], row["item_id"]) for row in answer] == whole[user]
                    assert all(row["time"] < as_of for row in answer)
                    assert all(row["rated_at"].replace(tzinfo=UTC).timestamp() == row["time"] for row in answer)
                bound = {"domain": domain, "as_of": as_of}
                answer = session.ask("FROM histories($domain, $as_of)", bound).to_pylist()
                assert [row["user_id"] for row in answer] == [user for user in sorted(whole) if whole[user]]
                for row in answer:
                    expected = whole[row["user_id"]]
                    assert row["item_ids"] == [item for _, item in expected]
                    assert row["times"] == [rows[at - 1].time for at, _ in expected]
                    assert row["ratings"] == [at % 5 + 1 for at, _ in expected]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One user, three days, two ratings on the second."""
    rows = [Row("Mugs", "A", item, day * DAY) for item, day in (("w", 3), ("x", 2), ("y", 2), ("z", 1))]
    with Session(_catalogue(rows, tmp_path_factory.mktemp("one"))) as session:
        yield session


NOON = datetime(1970, 1, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("as_of", "items"),
    [
        (2 * DAY, "z"),
        (2 * DAY + 1, "zxy"),
        (2 * DAY + 0.5, "zxy"),
        (str(2 * DAY), "z"),
        (date(1970, 1, 3), "z"),
        ("1970-01-03", "z"),
        (datetime(1970, 1, 3), "z"),
        ("1970-01-03 00:00:00.000001", "zxy"),
        (NOON, "zxy"),
        # The same moments, told elsewhere.
        (NOON.astimezone(timezone(timedelta(hours=13))), "zxy"),
        ("1970-01-03 02:00:00+02", "z"),
        ("1970-01-03 02:00:00+01", "zxy"),
        ("1970-01-03T00:00Z", "z"),
        (0, ""),
        (None, ""),
        ("2100-01-01", "zxyw"),
    ],
)
def test_a_moment_may_be_told_in_many_ways(session: Session, as_of: object, items: str) -> None:
    answer = session.ask("FROM history('Mugs', 'A', $as_of)", {"as_of": as_of})
    assert "".join(answer["item_id"].to_pylist()) == items
    answer = session.ask("FROM histories('Mugs', $as_of)", {"as_of": as_of})
    assert "".join(item for items in answer["item_ids"].to_pylist() for item in items) == items


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles"])
@pytest.mark.parametrize(
    "moment",
    [
        "172800",
        "DATE '1970-01-03'",
        "'1970-01-03 00:00'",
        "TIMESTAMP '1970-01-03'",
        "TIMESTAMPTZ '1970-01-03 00:00:00+00'",
        "TIMESTAMPTZ '1970-01-03 05:30:00+05:30'",
        "'1970-01-02T16:00:00-08'",
        "'1970-01-03T00:00:00Z'",
        "'1970-01-03 01:00:00 Europe/Berlin'",
        "make_timestamp(172800000000)",
        "to_timestamp(172800)",
        "TIMESTAMP_NS '1970-01-02 23:59:59.1'",
    ],
)
def test_a_moment_is_the_same_in_every_time_zone(session: Session, moment: str, zone: str) -> None:
    with duckdb.connect(session.catalogue, read_only=True) as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        assert connection.sql(f"SELECT unix_seconds({moment})").fetchall() == [(172_800,)]


def test_a_moment_that_is_none_is_an_error(session: Session) -> None:
    with pytest.raises(DataError, match="soon"):
        session.ask("FROM history('Mugs', 'A', 'soon')")


def test_a_history_for_every_row_of_a_table(session: Session) -> None:
    """As of each of the user's own ratings: what a model may know when it predicts it."""
    answer = session.ask(
        """
        SELECT target.item_id, count(known.item_id) AS known
        FROM core.interactions AS target
        LEFT JOIN LATERAL (FROM history(target.domain, target.user_id, target.time)) AS known ON true
        GROUP BY ALL
        ORDER BY ALL
        """
    ).to_pylist()
    assert {row["item_id"]: row["known"] for row in answer} == {"w": 3, "x": 1, "y": 1, "z": 0}
