"""The example queries: each runs as it is, and says what it should about the sample."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from warehouse.catalogue.query import Session
from warehouse.catalogue.questions import Example, example, examples
from warehouse.errors import DataError

NAMES = [found.name for found in examples()]


@pytest.fixture(scope="module")
def session(tiny: Cli) -> Iterator[Session]:
    with Session(tiny.data / "warehouse.duckdb") as session:
        yield session


def _rows(session: Session, name: str, **given: str) -> list[dict[str, Any]]:
    found = example(name)
    bound = found.bind(given, lambda sql, known: session.ask(sql, known).to_pylist())
    rows: list[dict[str, Any]] = session.ask(found.sql, bound).to_pylist()
    return rows


def _nobody(sql: str, known: dict[str, Any]) -> list[dict[str, Any]]:
    raise AssertionError(f"{sql} was asked")


@pytest.mark.parametrize("found", examples(), ids=NAMES)
def test_an_example_says_what_it_asks(found: Example) -> None:
    assert found.question.endswith("?")
    named = set(re.findall(r"\$(\w+)", found.sql.split("\n\n")[0]))
    assert named == set(found.parameters)
    body = "\n".join(line for line in found.sql.split("\n") if not line.startswith("--"))
    assert set(re.findall(r"\$(\w+)", body)) == set(found.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_as_it_is(session: Session, tiny: Cli, name: str) -> None:
    """In a session and through the command, with the same answer."""
    rows = _rows(session, name)
    # After one run there is no version before the current one: tests/warehouse/test_periods.py has two.
    assert bool(rows) == (name != "what_changed")
    assert all(value is not None for row in rows[:1] for value in list(row.values())[:2])
    said = json.loads(tiny("sql", "--example", name, "--json").stdout)
    assert said == json.loads(json.dumps(rows, default=str))


def test_there_are_a_dozen_and_more_and_they_are_listed(tiny: Cli) -> None:
    assert len(NAMES) >= 12
    listed = json.loads(tiny("sql", "--examples", "--json").stdout)
    assert [row["name"] for row in listed] == NAMES


def test_every_domain_is_asked_about_or_one(session: Session) -> None:
    domains = session.ask("SELECT domain FROM domains ORDER BY domain")["domain"].to_pylist()
    assert sorted({row["domain"] for row in _rows(session, "ratings_by_year")}) == domains
    assert {row["domain"] for row in _rows(session, "ratings_by_year", domain="Sample_Toys")} == {"Sample_Toys"}


def test_popular_items_have_titles_and_falling_counts(session: Session) -> None:
    rows = _rows(session, "popular_items", domain="Sample_Toys", top="4")
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    counts = [row["interactions"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert all(row["title"] for row in rows)


def test_the_head_holds_more_the_larger_it_is(session: Session) -> None:
    shares = [
        {row["domain"]: row["share_of_interactions"] for row in _rows(session, "head_share", percent=percent)}
        for percent in ("1", "20", "100")
    ]
    for domain in shares[0]:
        assert shares[0][domain] < shares[1][domain] < shares[2][domain] == 1


def test_what_is_set_aside_adds_up(session: Session, tiny: Cli) -> None:
    """The sample's raw files have lines of every kind of dirt: all are counted, by reason."""
    for row in session.ask("FROM domains").to_pylist():
        aside = [a for a in _rows(session, "set_aside", domain=row["domain"]) if a["what"] == "row"]
        assert row["rating_lines"] == row["interactions"] + sum(a["rows"] for a in aside if a["file"] == "ratings")
        assert row["metadata_lines"] == row["metadata_items"] + sum(a["rows"] for a in aside if a["file"] == "metadata")
        raw = tiny.data / "raw_files" / f"{row['domain']}.csv"
        assert row["rating_lines"] == raw.read_bytes().rstrip(b"\n").count(b"\n") + 1


def test_the_lineage_of_a_model_ends_at_the_raw_files(session: Session, tiny: Cli) -> None:
    rows = _rows(session, "model_lineage", model="models/finetuned", domain="Sample_Toys")
    files = {row["source"] for row in rows} - {None}
    assert {"Sample_Toys.csv", "meta_Sample_Toys.json.gz", "Sample_Kitchen.csv"} <= files
    assert "Sample_Office.csv" not in files


def test_a_changed_source_domain_reaches_every_target(session: Session) -> None:
    rows = _rows(session, "rebuilt_if_changed", source="Sample_Kitchen.csv")
    reached = {(row["key"], row["domain"]) for row in rows}
    assert {
        ("models/pretrained", "_all"),
        ("models/finetuned", "Sample_Toys"),
        ("reports/metrics", "Sample_Office"),
    } <= (reached)
    assert ("core/sequences", "Sample_Toys") not in reached
    assert ("models/scratch", "Sample_Toys") not in reached


def test_a_history_stops_before_its_day(session: Session) -> None:
    rows = _rows(session, "history_and_recommendations", domain="Sample_Toys")
    bought = [row for row in rows if row["what"] == "bought"]
    assert len(rows) - len(bought) == 10
    earlier = _rows(session, "history_and_recommendations", domain="Sample_Toys", as_of=str(bought[-1]["day"]))
    assert [row for row in earlier if row["what"] == "bought"] == [
        row for row in bought if row["day"] < bought[-1]["day"]
    ]


def test_the_mix_of_categories_is_whole(session: Session) -> None:
    rows = _rows(session, "category_mix", domain="Sample_Office")
    assert sum(row["share_bought"] for row in rows) == pytest.approx(1)
    assert sum(row["share_recommended"] for row in rows) == pytest.approx(1)


def test_new_users_are_all_users(session: Session) -> None:
    rows = _rows(session, "new_users", domain="Sample_Toys", months="1000")
    (known,) = session.ask(
        "SELECT count(DISTINCT user_id) AS users FROM core.interactions WHERE domain = 'Sample_Toys'"
    ).to_pylist()
    assert sum(row["new_users"] for row in rows) == rows[-1]["users_so_far"] == known["users"]


def test_wrong_names_and_values_are_errors_that_help(tiny: Cli) -> None:
    with pytest.raises(DataError, match="did you mean popular_items"):
        example("popularitems")
    with pytest.raises(DataError, match="it has: domain, top"):
        example("popular_items").bind({"tpo": "1"}, _nobody)
    with pytest.raises(DataError, match="must be a number"):
        example("popular_items").bind({"domain": "x", "top": "many"}, _nobody)
    assert "NAME=VALUE" in tiny("sql", "--example", "popular_items", "--param", "top", code=1).stderr


def test_statements_are_shipped_with_the_package() -> None:
    folder = Path(__file__).parents[2] / "warehouse" / "catalogue" / "examples"
    assert sorted(path.stem for path in folder.iterdir()) == NAMES
