"""The catalogue opens with the oldest DuckDB that is promised, and says there what it says here.

That DuckDB lies in a folder of its own (`make olddb`), since an environment holds only one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmm4rec.metrics import shown
from pipelines.planner.columns import columns
from tests.conftest import REPOSITORY
from tests.test_tables import MADE, PRODUCED
from tests.warehouse.work import publish_domain, write_raw
from warehouse.artifacts.store import Recipe, Store
from warehouse.catalogue.build import build_catalogue, view_name
from warehouse.catalogue.macros import MACROS
from warehouse.catalogue.query import Session
from warehouse.duck import OLDEST

FOLDER = REPOSITORY / ".duckdb-oldest"
"""Where `make olddb` installs it."""

ASKED = {
    "main.unix_seconds": "SELECT unix_seconds('2016-01-01 12:00:00+02') AS a, unix_seconds(DATE '1970-01-02') AS b",
    "main.history": "FROM history('Mugs', 'U3', 1000)",
    "main.histories": "FROM histories('Mugs', '1970-01-01 00:10:00')",
    # Of a macro with a default, older versions take the value by its name alone.
    "lineage.upstream": "FROM lineage.upstream('core/sequences', domain := 'Mugs')",
    "lineage.downstream": "FROM lineage.downstream('raw/metadata', domain := 'Mugs')",
    "lineage.impact": "FROM lineage.impact('meta_Mugs.json')",
}
"""A question a macro."""

READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import duckdb
answers = {"version": duckdb.__version__}
with duckdb.connect(sys.argv[2], read_only=True) as catalogue:
    for name, sql in json.loads(sys.argv[3]).items():
        answers[name] = [[str(value) for value in row] for row in catalogue.execute(sql).fetchall()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every view and macro that there can be: over a domain up to its sequences, and one whose tables are all empty."""
    folder = tmp_path_factory.mktemp("oldest")
    store = Store(folder)
    write_raw(folder / "files", "Mugs", 0)
    publish_domain(folder, folder / "files", "Mugs")
    for artifact in sorted({key.rpartition("/")[0] for key in PRODUCED}):

        def build(out: Path, artifact: str = artifact) -> dict[str, str]:
            for key, schema in PRODUCED.items():
                if key.startswith(f"{artifact}/"):
                    pq.write_table(schema.empty_table(), out / f"{key.rpartition('/')[2]}.parquet")
            return {"model": "scratch", "encoded": 1, "reused": 0}

        store.publish(Recipe(artifact, "Empty", "code", {}, {}, {}), build)
    build_catalogue(
        store.all_current(),
        folder / "warehouse.duckdb",
        metrics=[metric.label for metric in shown()],
        periods=store.periods(),
        columns=columns,
    )
    return folder / "warehouse.duckdb"


def _questions() -> dict[str, str]:
    """By name, one of every view, table and macro, in an order of its own."""
    names = [".".join(view_name(key)) for key in PRODUCED] + [key.replace("/", ".") for key in MADE]
    assert {*ASKED} == {key.replace("/", ".") for key in MACROS}
    return {name: f"FROM {name} ORDER BY ALL" for name in names} | ASKED


def test_the_oldest_duckdb_answers_every_question_alike(catalogue: Path) -> None:
    if not FOLDER.is_dir():
        pytest.skip("the oldest DuckDB is not installed: `make olddb` installs it and runs this test")
    questions = _questions()
    command = [sys.executable, "-c", READER, str(FOLDER), str(catalogue), json.dumps(questions)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    assert answers.pop("version") == OLDEST
    assert answers == _answers(catalogue, questions)


def test_the_catalogue_says_the_oldest_duckdb_that_opens_it(catalogue: Path) -> None:
    """As the file is written: this holds where no older DuckDB is at hand to try it."""
    with Session(catalogue) as session:
        (row,) = session.ask(
            "SELECT tags['storage_version'] AS storage FROM duckdb_databases() WHERE database_name = 'warehouse'"
        ).to_pylist()
    assert row["storage"].startswith(f"v{OLDEST}")


def _answers(catalogue: Path, questions: dict[str, str]) -> dict[str, Any]:
    """What the DuckDB of this environment says to a reader as plain as the other."""
    command = [sys.executable, "-c", READER, "", str(catalogue), json.dumps(questions)]
    answers: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert sum(map(bool, answers.values())) > 20, "an empty answer is no comparison"
    return {name: answers[name] for name in questions}
