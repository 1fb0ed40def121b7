"""Which version was current from when to when: noted with every move of CURRENT, and kept when versions go."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from warehouse.artifacts.history import HISTORY
from warehouse.artifacts.store import Artifact, Recipe, Store
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import query
from warehouse.catalogue.questions import example


def _publish(store: Store, rows: int, domain: str = "Mugs") -> Artifact:
    def build(out: Path) -> dict[str, Any]:
        pq.write_table(pa.table({"n": range(rows)}), out / "notes.parquet")
        return {"ndcg_10": {"scratch": rows / 10}}

    return store.publish(Recipe("core/notes", domain, "code", {}, {}, {"rows": rows}), build)[0]


def _told(store: Store) -> list[tuple[str, int | None, bool]]:
    """Version, rows, and whether it is current, of every period."""
    periods = store.periods()
    assert [one.since for one in periods] == sorted(one.since for one in periods)
    assert [one.until for one in periods] == [*(one.since for one in periods[1:]), None]
    return [(one.version, one.rows, one.until is None) for one in periods]


def test_going_back_is_a_period_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = _publish(store, 1), _publish(store, 2)
    _publish(store, 2)
    _publish(store, 1)
    assert _told(store) == [(one.version, 1, False), (two.version, 2, False), (one.version, 1, True)]
    assert store.periods()[1].summary["ndcg_10"] == {"scratch": 0.2}


def test_what_is_collected_or_forgotten_is_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = _publish(store, 1), _publish(store, 2)
    assert [leftover.kind for leftover in store.collect()] == ["version"]
    assert _told(store) == [(one.version, 1, False), (two.version, 2, True)]
    store.forget("Mugs")
    store.collect()
    assert [(period.version, period.until is None) for period in store.periods()] == [
        (one.version, False),
        (two.version, False),
    ]
    _publish(store, 2)
    assert [(period.version, period.until is None) for period in store.periods()] == [
        (one.version, False),
        (two.version, False),
        (two.version, True),
    ]


def test_a_store_from_before_begins_with_what_is_current(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = _publish(store, 1)
    (one.path.parent / HISTORY).unlink()
    (period,) = store.periods()
    assert (period.version, period.since, period.until) == (one.version, one.manifest.created, None)
    two = _publish(store, 2)
    assert [period.version for period in store.periods()] == [one.version, two.version]


@pytest.mark.parametrize("left", ["", "before", '{"version": "x"}\n[1]\n{"version": 1}\n\x00\n' + "[" * 100_000])
def test_a_history_left_behind_or_broken_is_completed(tmp_path: Path, left: str) -> None:
    store = Store(tmp_path)
    one = _publish(store, 1)
    before = (one.path.parent / HISTORY).read_text()
    two = _publish(store, 2)
    (one.path.parent / HISTORY).write_text(before if left == "before" else left)
    expected = [one.version, two.version] if left == "before" else [two.version]
    assert [period.version for period in store.periods()] == expected
    three = _publish(store, 3)
    assert [period.version for period in store.periods()] == [*expected, three.version]
    lines = (one.path.parent / HISTORY).read_text().splitlines()
    assert [json.loads(line)["version"] for line in lines] == [*expected, three.version]


def test_what_changed_is_one_question(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for rows in (1, 2, 4):
        _publish(store, rows)
    _publish(store, 3, "Pots")
    build_catalogue(store.all_current(), tmp_path / "w.duckdb", periods=store.periods())
    versions = query(tmp_path / "w.duckdb", "SELECT domain, rows, until IS NULL AS current FROM lineage.versions")
    assert [tuple(row.values()) for row in versions.to_pylist()] == [
        ("Mugs", 1, False),
        ("Mugs", 2, False),
        ("Mugs", 4, True),
        ("Pots", 3, True),
    ]
    asked = example("what_changed")
    rows = query(tmp_path / "w.duckdb", asked.sql, asked.bind({"key": "core/notes"}, lambda sql, known: [])).to_pylist()
    assert [tuple(row[name] for name in ("domain", "figure", "before", "now", "difference")) for row in rows] == [
        ("Mugs", "ndcg_10.scratch", 0.2, 0.4, 0.2),
        ("Mugs", "rows", 2, 4, 2),
    ], "Pots has no version before"
