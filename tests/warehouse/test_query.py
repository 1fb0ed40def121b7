"""Questions to the catalogue: read-only, confined, one version a session."""

from pathlib import Path

import pytest

from warehouse.catalogue import build_catalogue
from warehouse.errors import WarehouseError
from warehouse.query import Session, ends, query


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A catalogue over nothing: it can be asked all the same."""
    build_catalogue([], tmp_path / "warehouse.duckdb")
    return tmp_path / "warehouse.duckdb"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO 'x.csv'",
        "SET threads = 1",
        "ATTACH 'x.duckdb'",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
        "FROM read_csv('/etc/passwd')",
        "FROM glob('/*')",
        "FROM no_such_table",
        "FROM sql",
    ],
)
def test_a_query_can_only_read_the_catalogue(catalogue: Path, sql: str) -> None:
    with pytest.raises(WarehouseError):
        query(catalogue, sql)


def test_a_missing_catalogue_says_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="mmm4rec run"):
        query(tmp_path / "warehouse.duckdb", "SELECT 1")


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT 1 AS a;", [1]),
        ("SELECT 1 AS a; -- done; \n", [1]),
        ("-- ask\nSELECT ';' AS a -- a comment; or two\n;;", [";"]),
        ("SELECT 'ä€𝄞;' AS a; /* ; */", ["ä€𝄞;"]),
        ("SELECT $a AS a", [5]),
        ("FROM range(3) AS t(a)", [0, 1, 2]),
    ],
)
def test_a_question_may_end_as_people_end_it(catalogue: Path, sql: str, answer: list[object]) -> None:
    assert query(catalogue, sql, {"a": 5} if "$a" in sql else None)["a"].to_pylist() == answer


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("SELECT 1;", True),
        ("SELECT 1; -- yes", True),
        ("SELECT 1; /* yes */ \n", True),
        ("SELECT 1", False),
        ("SELECT ';", False),
        ("SELECT $$ ;", False),
        ('SELECT ";', False),
        ("SELECT 1 -- no;", False),
        ("SELECT 1 /* no;", False),
        ("", False),
    ],
)
def test_where_a_statement_ends(text: str, whole: bool) -> None:
    assert ends(text) is whole


def test_a_script_is_split_where_its_statements_end(catalogue: Path) -> None:
    with Session(catalogue) as session:
        assert session.statements("SELECT 1; -- a\nSELECT ';' ;\n\n") == ["SELECT 1; -- a", "SELECT ';' ;"]
        assert session.statements("-- nothing") == []
        with pytest.raises(WarehouseError, match="syntax error"):
            session.statements("SELECT 1; SELEC 2")


def test_a_limit_cuts_the_answer_in_its_order(catalogue: Path) -> None:
    with Session(catalogue) as session:
        assert session.ask("FROM range(9) AS t(a) ORDER BY a DESC", limit=2)["a"].to_pylist() == [8, 7]
        assert session.ask("DESCRIBE lineage.files", limit=1).num_rows == 1


def test_a_session_stays_with_one_catalogue_until_it_is_refreshed(catalogue: Path, tmp_path: Path) -> None:
    with Session(catalogue) as session:
        assert not session.superseded
        build_catalogue([], tmp_path / "next.duckdb")
        (tmp_path / "next.duckdb").replace(catalogue)
        assert session.superseded
        assert session.ask("FROM lineage.files").num_rows == 0
        session.refresh()
        assert not session.superseded
        assert session.ask("FROM lineage.files").num_rows == 0
        catalogue.unlink()
        assert session.ask("FROM lineage.files").num_rows == 0
        with pytest.raises(WarehouseError, match="mmm4rec run"):
            session.refresh()


def test_an_error_ends_only_its_question(catalogue: Path) -> None:
    with Session(catalogue) as session:
        for wrong in ("SELECT nothing", "CREATE TABLE x (a INT)", "FROM read_text('/etc/passwd')"):
            with pytest.raises(WarehouseError):
                session.ask(wrong)
        assert session.ask("SELECT 1 AS a")["a"].to_pylist() == [1]


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_text("not a database")
    with pytest.raises(WarehouseError, match="cannot be read as a catalogue"):
        query(tmp_path / "warehouse.duckdb", "SELECT 1")
