"""Questions to the catalogue: read-only, confined, one version a session."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse import duck
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import Session, ends, query
from warehouse.errors import DataError


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
    with pytest.raises(DataError):
        query(catalogue, sql)


WRITING = [
    "COPY (SELECT 'x' AS a) TO '{file}'",
    "COPY (SELECT 'x' AS a) TO '{file}' (FORMAT csv, USE_TMP_FILE false)",
    "INSERT INTO lineage.files SELECT * FROM lineage.files RETURNING *",
    "DELETE FROM lineage.files RETURNING *",
    "UPDATE lineage.files SET name = 'x' RETURNING *",
    "TRUNCATE lineage.files",
]
FRAMES = [
    "WITH x AS ({writing}) SELECT 1",
    "WITH x AS MATERIALIZED ({writing}) FROM x",
    "WITH y AS (SELECT 1), x AS ({writing}) SELECT 1 UNION SELECT 2 ORDER BY 1",
    "FROM (WITH x AS ({writing}) SELECT 1)",
    "SELECT (WITH x AS ({writing}) SELECT 1)",
    "SELECT 1 WHERE EXISTS (WITH x AS ({writing}) SELECT 1)",
    "WITH RECURSIVE t(a) AS (SELECT 1 UNION ALL (WITH x AS ({writing}) SELECT 2)) FROM t",
    "DESCRIBE WITH x AS ({writing}) SELECT 1",
    "SUMMARIZE WITH x AS ({writing}) SELECT 1",
    "FROM query('WITH x AS ({quoted}) SELECT 1')",
    "SELECT * FROM System.Main.QUERY('WITH x AS ({quoted}) SELECT 1')",
    "FROM json_execute_serialized_sql('{serialized}')",
    "SELECT 1 WHERE 1 IN (FROM json_execute_serialized_sql('{serialized}'))",
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session beside a file that must stay what it is."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "items.csv").write_text("kept\n")
    build_catalogue([], folder / "warehouse.duckdb")
    with Session(folder / "warehouse.duckdb") as session:
        yield session


@pytest.mark.parametrize("writing", WRITING)
@pytest.mark.parametrize("frame", FRAMES)
def test_no_part_of_a_question_writes(asked: Session, frame: str, writing: str) -> None:
    file = asked.catalogue.parent / "items.csv"
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    writing = writing.format(file=file)
    (row,) = duckdb.execute("SELECT json_serialize_sql(?)", [f"WITH x AS ({writing}) SELECT 1"]).fetchall()
    quoted, serialized = (text.replace("'", "''") for text in (writing, row[0]))
    with pytest.raises(DataError):
        asked.ask(frame.format(writing=writing, quoted=quoted, serialized=serialized))
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_what_is_refused_was_a_danger(tmp_path: Path) -> None:
    """DuckDB itself takes the COPY of the test above: it is our parsing that refuses it."""
    duckdb.execute(f"WITH x AS ({WRITING[1].format(file=tmp_path / 'items.csv')}) SELECT 1")
    assert (tmp_path / "items.csv").read_text() == "a\nx\n"


@pytest.mark.parametrize(
    "sql",
    [
        "FROM arrow_scan(1, 2, 3)",
        "FROM pandas_scan(1)",
        "FROM checkpoint()",
        "FROM force_checkpoint('warehouse')",
        "FROM enable_logging()",
        "FROM read_duckdb('warehouse.duckdb', table_name = 'files')",
        "SELECT nextval('x')",
        "CALL checkpoint()",
        "PRAGMA version",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPORT DATABASE 'x'",
        "WITH x AS (ATTACH 'x.duckdb') SELECT 1",
        "WITH x AS (CREATE TABLE x AS SELECT 1) SELECT 1",
        "WITH x AS (SET VARIABLE a = 1) SELECT 1",
        "WITH x AS (EXPORT DATABASE 'x') SELECT 1",
        "SELECT getenv('HOME')",
        "FROM sniff_csv('/etc/passwd')",
        "FROM read_blob('/etc/passwd')",
        "FROM '/etc/passwd'",
    ],
)
def test_other_ways_out_are_closed(asked: Session, sql: str) -> None:
    with pytest.raises(DataError):
        asked.ask(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 1 AS n), b AS MATERIALIZED (FROM a) FROM b UNION ALL FROM a",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t",
        "SELECT 'WITH x AS (COPY t TO ''x'') SELECT 1' AS n, {'type': 'COPY_QUERY_NODE'}",
        "FROM (PIVOT (SELECT 1 AS n, 2 AS m) ON n IN (1) USING sum(m))",
        "SHOW TABLES",
        "SUMMARIZE SELECT 1 AS n",
        "VALUES (1)",
        "FROM duckdb_columns()",
        "FROM lineage.upstream('core/items')",
        "SELECT unnest([1, 2]) AS n",
        "FROM read_csv('{folder}/items.csv')",
        "SELECT " + " + ".join(["1"] * 900),
    ],
)
def test_what_only_reads_is_answered(asked: Session, sql: str) -> None:
    assert asked.ask(sql.replace("{folder}", str(asked.catalogue.parent))).num_columns


@settings(max_examples=20, deadline=None)
@given(st.text(), st.text())
def test_values_are_never_taken_for_statements(asked: Session, a: str, b: str) -> None:
    a, b = a.replace("\0", ""), b.replace("\0", "")
    sql = f"SELECT {duck.literal(a)} AS a, $b AS b"
    assert asked.ask(sql, {"b": b}).to_pylist() == [{"a": a, "b": b}]


def test_a_catalogue_from_elsewhere_widens_nothing(tmp_path: Path) -> None:
    """Not by a view that stands for the project's own, and not by macros that stand for DuckDB's functions."""
    (tmp_path / "secret").write_text("secret")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(tmp_path)
    with duckdb.connect(data / "warehouse.duckdb") as made:
        made.execute("CREATE SCHEMA lineage")
        made.execute(
            f"CREATE VIEW lineage.artifacts AS SELECT '/' AS path, content FROM read_text('{tmp_path}/secret')"
        )
        made.execute('CREATE MACRO json_serialize_sql(a) AS \'{"type": "SELECT_NODE"}\'')
        made.execute("CREATE MACRO json_extract_string(a, b) AS ['SELECT_NODE']")
    with Session(data / "warehouse.duckdb") as session:
        for sql in (
            "FROM lineage.artifacts",
            f"FROM read_text('{tmp_path}/secret')",
            f"FROM read_text('{data}/../secret')",
            f"FROM read_text('{data}/link/secret')",
            f"WITH x AS (COPY (SELECT 1) TO '{data}/new') SELECT 1",
        ):
            with pytest.raises(DataError):
                session.ask(sql)
    assert not (data / "new").exists()


def test_a_refusal_names_the_folder(asked: Session) -> None:
    with pytest.raises(DataError, match=f"only the files in {asked.catalogue.parent}"):
        asked.ask("FROM read_text('/etc/passwd')")


STREAMING = """
import sys
from pathlib import Path
from warehouse.duck import Engine
from warehouse.catalogue.query import Session
with Session(Path(sys.argv[1]), Engine(1, "100MB")) as session:
    answer = session.stream("SELECT range AS a, repeat('x', 4000) AS b FROM range(200000)")
    print(*answer.columns, sum(batch.num_rows for batch in answer.batches))
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def test_an_answer_larger_than_the_memory_comes_in_parts(catalogue: Path) -> None:
    """800 MB; a process of its own, since only so its most memory can be told."""
    command = [sys.executable, "-c", STREAMING, str(catalogue)]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == "a b 200000"
    assert int(peak) < 400_000, "kB"


def test_an_error_in_a_late_part_is_one_of_the_house(catalogue: Path) -> None:
    with Session(catalogue) as session, pytest.raises(DataError, match="DuckDB refuses"):
        list(session.stream("SELECT (127 + range // 100000)::TINYINT FROM range(200000)").batches)


SPILLING = """
import sys
from collections.abc import Iterator
from pathlib import Path
from warehouse.duck import Engine
from warehouse.catalogue.query import Session
with Session(Path(sys.argv[1]), Engine(1, "50MB")) as session:
    answer = session.stream("SELECT md5(range::VARCHAR) AS a, repeat('x', 100) AS b FROM range(700000) ORDER BY a")
    next(answer.batches)
    print("spilled", flush=True)
    sys.stdin.read()
"""


def test_what_spills_lies_in_a_private_place_and_goes(catalogue: Path, tmp_path: Path) -> None:
    """Also of a process that is killed: the next one removes it."""
    place = tmp_path / "temporary"
    place.mkdir()
    here = tmp_path / "here"
    here.mkdir()

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SPILLING, catalogue],
            cwd=here,
            env={**os.environ, "TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def spilled() -> list[Path]:
        return list(place.rglob("duckdb_temp_*"))

    with started() as killed:
        assert killed.stdout
        assert killed.stdout.readline() == "spilled\n"
        (private,) = place.iterdir()
        assert private.stat().st_mode & 0o077 == 0
        left = spilled()
        assert left
        killed.kill()
    assert spilled() == left
    with started() as ended:
        assert ended.stdout
        assert ended.stdout.readline() == "spilled\n"
        assert not {*left} & {*spilled()}
        ended.communicate("")
    assert spilled() == []
    assert list(here.iterdir()) == []


def test_a_place_of_somebody_else_is_not_used(catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duck.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"mmm4rec-{os.getuid()}").symlink_to("elsewhere")
    with pytest.raises(DataError, match="TMPDIR"):
        query(catalogue, "SELECT 1")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_missing_catalogue_says_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mmm4rec run"):
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
        with pytest.raises(DataError, match="syntax error"):
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
        with pytest.raises(DataError, match="mmm4rec run"):
            session.refresh()


def test_an_error_ends_only_its_question(catalogue: Path) -> None:
    with Session(catalogue) as session:
        for wrong in ("SELECT nothing", "CREATE TABLE x (a INT)", "FROM read_text('/etc/passwd')"):
            with pytest.raises(DataError):
                session.ask(wrong)
        assert session.ask("SELECT 1 AS a")["a"].to_pylist() == [1]


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_text("not a database")
    with pytest.raises(DataError, match="cannot be read as a catalogue"):
        query(tmp_path / "warehouse.duckdb", "SELECT 1")
