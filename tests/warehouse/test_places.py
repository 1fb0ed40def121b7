"""Where a data folder lies: no name above it reaches a table, and a catalogue answers for its own folder only."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.test_tables import PRODUCED
from tests.warehouse.work import ENGINE, publish_all, versions, write_raw
from warehouse.artifacts.store import Store
from warehouse.catalogue.query import Session, check_place
from warehouse.catalogue.views import PARTITION
from warehouse.errors import DataError

STATEMENTS = [path for room in ("warehouse", "pipelines") for path in sorted((REPOSITORY / room).rglob("*.sql"))]
HARD = "domain=shop/v=2/time=2024/item_id=7/title=none/data"
"""A folder whose names are those of columns."""


def test_no_statement_takes_columns_from_a_path() -> None:
    reads = 0
    for path in STATEMENTS:
        text = path.read_text()
        assert not re.search(r"parquet_scan|read_(csv|json|text|blob)|\b(FROM|JOIN) '", text), path
        for options in re.findall(r"read_parquet\(([^()]*)\)", text):
            assert "hive_partitioning = false" in options, f"{path}: a folder named KEY=VALUE would be a column"
            reads += 1
        assert text.count("read_parquet(") == len(re.findall(r"read_parquet\([^()]*\)", text)), path
    assert reads > 20


def test_no_table_has_the_columns_of_the_views() -> None:
    assert not [key for key, schema in PRODUCED.items() if PARTITION.keys() & set(schema.names)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same two domains in a plain folder and in a hard one."""
    top = tmp_path_factory.mktemp("places")
    for domain in ("Mugs", "Toys"):
        write_raw(top / "raw", domain, 0)
    plain, hard = top / "data", top / HARD
    for root in (plain, hard):
        publish_all(root, top / "raw", ["Mugs", "Toys"])
    return plain, hard


def test_a_folder_named_like_a_column_changes_no_table(folders: tuple[Path, Path]) -> None:
    plain, hard = folders
    assert versions(Store(plain)) == versions(Store(hard))
    with Session(plain / "warehouse.duckdb", ENGINE) as one, Session(hard / "warehouse.duckdb", ENGINE) as other:
        shown = [f"{row['schema']}.{row['name']}" for row in one.ask_named("catalogue_views").to_pylist()]
        assert len(shown) > 12
        for view in shown:
            same = one.ask(f"FROM {view} ORDER BY ALL") == other.ask(f"FROM {view} ORDER BY ALL")
            assert same == (view != "lineage.place"), view  # which names the folder
        for question in (
            "FROM history('Toys', 'U1', '2030-01-01')",
            "SELECT count(*) FROM core.items WHERE domain = 'Mugs'",
            "SELECT key, version FROM lineage.artifacts JOIN (SELECT DISTINCT domain, v AS version FROM core.items) "
            "USING (domain, version) ORDER BY ALL",
        ):
            answer = other.ask(question)
            assert answer.num_rows
            assert answer == one.ask(question)


def test_a_copy_or_a_moved_folder_is_told_from_the_original(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plain, _ = folders
    check_place(plain / "warehouse.duckdb", plain)
    for place in (tmp_path / "copy", plain / "copy"):
        shutil.copytree(plain, place)
        with pytest.raises(DataError, match=rf"{plain}: the data folder was moved or copied .*`mmm4rec run`"):
            check_place(place / "warehouse.duckdb", place)
    shutil.rmtree(plain / "copy")
