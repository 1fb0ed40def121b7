"""Code versions move with code and SQL, and stand still when only words about them change."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines import code_version as subject
from pipelines import definitions  # noqa: F401, declares the steps
from pipelines.step import STEPS
from tests.conftest import REPOSITORY
from tests.warehouse.work import write_raw

MODULE = '''
"""A room."""
from warehouse_like.helper import double


def build(x: int) -> str:
    """What it does."""
    # why it does so
    return load("rows") * double(x)
'''


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package with a module, a helper and two SQL files, known to `code_version` as a room."""
    folder = tmp_path / "warehouse_like"
    (folder / "sql").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "build.py").write_text(MODULE)
    (folder / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "unrelated.py").write_text("x = 1\n")
    (folder / "sql" / "rows.sql").write_text("-- all rows\nSELECT 'a  b' AS x\nFROM t\n")
    (folder / "sql" / "other.sql").write_text("SELECT 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(subject, "ROOMS", ("warehouse_like",))
    yield folder
    for name in [name for name in sys.modules if name.startswith("warehouse_like")]:
        del sys.modules[name]


def _version() -> str:
    for function in (subject._normalised, subject._tree, subject._room, subject._path):
        function.cache_clear()
    importlib.invalidate_caches()
    return subject.code_version("warehouse_like.build")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("build.py", "double(x)", "double(x + 1)"),
        ("helper.py", "2 * x", "3 * x"),
        ("sql/rows.sql", "FROM t", "FROM u"),
        ("sql/rows.sql", "'a  b'", "'a b'"),
    ],
)
def test_a_change_of_meaning_is_a_new_version(room: Path, file: str, old: str, new: str) -> None:
    before = _version()
    text = (room / file).read_text()
    assert old in text
    (room / file).write_text(text.replace(old, new))
    assert _version() != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("build.py", "# why it does so", "# because"),
        ("build.py", "What it does.", "What it really does."),
        ("build.py", "\n\n\ndef", "\n\ndef"),
        ("sql/rows.sql", "-- all rows", "/* every\nrow */"),
        ("sql/rows.sql", "\nFROM", "\n    FROM"),
        ("sql/other.sql", "1", "2"),
        ("unrelated.py", "1", "2"),
    ],
)
def test_a_change_of_words_is_not(room: Path, file: str, old: str, new: str) -> None:
    before = _version()
    text = (room / file).read_text()
    assert old in text
    (room / file).write_text(text.replace(old, new))
    assert _version() == before


def test_raw_ratings_cover_both_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(subject, "_normalised", lambda module: seen.append(module) or module)
    assert dataclasses.replace(STEPS["raw/ratings"]).code_version  # a new one, which has none yet
    assert {"warehouse.ratings", "warehouse.reviews", "warehouse.records", "warehouse.raw"} <= set(seen)


EDITED = """
import json, pathlib, sys
from pipelines import code_version
from pipelines.runs import plan
from pipelines.settings import House
from pipelines.step import STEPS, upstream_first

data, edits = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def stale():
    for function in (code_version._normalised, code_version._tree, code_version._room, code_version._path):
        function.cache_clear()
    for step in STEPS.values():
        vars(step).pop("code_version", None)
    return sorted(step.key for stage in plan(House(data), ["Toys"]) for step in stage.steps)

built = []
for step in upstream_first():
    for domain in step.domains(House(data), ["Toys"]):
        step.publish(House(data), domain)
        built.append(step.key)
found = [stale()]
for name, old, new in edits:
    path = pathlib.Path(name)
    text = path.read_text()
    assert old in text, (name, old)
    path.write_text(text.replace(old, new, 1))
    found.append(stale())
    path.write_text(text)
print(json.dumps({"built": built, "stale": found}))
"""
SQL = {
    "warehouse/sql/kept_items.sql": ("ORDER BY item_id", "ORDER BY item_id, line", {"core/items"}),
    "warehouse/sql/judged_ratings.sql": ("ratings.line,", "ratings.line AS line,", {"core/interactions"}),
    "warehouse/sql/user_ids.sql": ("SELECT", "SELECT ALL", {"core/sequences"}),
    "warehouse/sql/length_distribution.sql": ("SELECT", "SELECT ALL", {"warehouse/catalogue"}),
    "pipelines/sql/report_curves.sql": ("ORDER BY domain", "ORDER BY domain DESC", {"warehouse/report"}),
    "warehouse/sql/check_sequences.sql": ("SELECT", "SELECT ALL", set()),
    "pipelines/sql/recommendations.sql": ("SELECT", "SELECT ALL", set()),
}
"""Files with an edit that means something, and the assets that are made by them."""


@pytest.mark.long
def test_an_edited_sql_file_makes_exactly_its_downstream_stale(tmp_path: Path) -> None:
    """On a copy of the packages, over a domain that is built from end to end, as `mmm4rec run` plans it."""
    copy, data = tmp_path / "copy", tmp_path / "data"
    for room in subject.ROOMS:
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    write_raw(data / "raw_files", "Toys", 0)
    settings = {
        "domains": {"Toys": {"k": 3, "text_encoder": {"kind": "none"}, "image_encoder": {"kind": "none"}}},
        "model": {"hidden": 16, "inner": 16, "head_width": 8, "state": 8},
        "finetuning": {"epochs": 1},
    }
    (data / "domains.yaml").write_text(yaml.safe_dump(settings))
    edits = [(name, old, new) for name, (old, new, _) in SQL.items()]
    edits += [(name, old, f"-- said in other words\n/* and\nmore */ {old}") for name, (old, *_) in SQL.items()]
    done = subprocess.run(
        [sys.executable, "-c", EDITED, str(data), json.dumps(edits)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["built"]) == 14, "all assets but those that need a source domain"

    def downstream(made: set[str]) -> set[str]:
        more = {key for key, step in STEPS.items() if made & set(step.upstream)} & set(told["built"])
        return made if more <= made else downstream(made | more)

    nothing, *found = told["stale"]
    assert nothing == []
    for (name, _, new), stale in zip(edits, found, strict=True):
        direct = set() if new.startswith("--") else SQL[name][2]
        assert set(stale) == downstream(direct), (name, new)
