"""Code versions move with the code that a function runs, and stand still when only words or other code change."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.planner import code_version as subject
from pipelines.planner.remembered import Remembered
from pipelines.planner.step import all_steps

STEPS = all_steps()

MODULE = '''
"""A room."""
import math
from math import floor
from typing import TYPE_CHECKING

from warehouse_like import helper, tables
from warehouse_like.helper import double
from warehouse_like.registry import MODELS

if TYPE_CHECKING:
    from warehouse_like.unrelated import x

LIMIT = 3
OTHER = 4
DECLARED = []


def declared(given):
    return lambda function: DECLARED.append(given) or function


@declared("here")
def build(x: "int", rows: helper.Rows = ()) -> str:
    """What it does."""
    # why it does so
    from warehouse_like.late import late

    found: int = late(x)
    kept = Kept(found)
    return load("rows") * double(x) + helper.deep.deeper(floor(kept.size)) + MODELS["a"] + tables.TABLES


class Base:
    """What a class is made from."""

    limit = LIMIT


class Kept(Base):
    size: int = 2


def beside(other):
    return OTHER * double(other)


def shadows(double):
    OTHER = 1
    return double(OTHER)
'''
FILES = {
    "__init__.py": "",
    "build.py": MODULE,
    "helper.py": "from warehouse_like import deep\n\nRows = tuple\n\n\ndef double(x):\n    return 2 * x\n",
    "deep.py": "import warnings\n\nwarnings.simplefilter('ignore')\n\n\ndef deeper(x):\n    return x\n",
    "late.py": "try:\n    import fast\nexcept ImportError:\n    fast = None\n\n\ndef late(x):\n    return fast or x\n",
    "unrelated.py": "x = 1\n",
    "registry.py": 'MODELS = {"a": "warehouse_like.models:A", "b": "warehouse_like.models:B"}\n',
    "models.py": "class A:\n    a = 1\n\n\nclass B:\n    b = 1\n",
    "tables.py": 'TABLES = {"core/x": ["a column, which is this and that"]}\n',
    "sql/rows.sql": "-- all rows\nSELECT 'a  b' AS x\nFROM t\n",
    "sql/other.sql": "SELECT 1",
}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package with modules and SQL files, known to `code_version` as a room."""
    folder = tmp_path / "warehouse_like"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(subject, "ROOMS", ("warehouse_like",))
    yield folder
    for name in [name for name in sys.modules if name.startswith("warehouse_like")]:
        del sys.modules[name]
    subject.forget()


def _version(*names: str) -> str:
    subject.forget()
    importlib.invalidate_caches()
    return subject.code_version(*(names or ["warehouse_like.build:build"]))


def _edit(room: Path, file: str, old: str, new: str) -> None:
    text = (room / file).read_text()
    assert old in text
    (room / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("build.py", "double(x)", "double(x + 1)"),
        ("build.py", "found: int = late(x)", "found: int = late(x + 1)"),
        ("build.py", "LIMIT = 3", "LIMIT = 4"),  # by way of the base of a class that it makes
        ("build.py", "size: int = 2", "size: float = 2"),  # a field of a class is more than an annotation
        ("build.py", "rows: helper.Rows = ()", "rows: helper.Rows = (1,)"),
        ("build.py", "from math import floor", "from math import ceil as floor"),
        ("helper.py", "2 * x", "3 * x"),
        ("deep.py", "return x", "return x + 1"),  # by way of a module of a module
        ("deep.py", "'ignore'", "'error'"),  # which runs when it is imported
        ("late.py", "fast or x", "x"),
        ("late.py", "fast = None", "fast = 1"),
        ("sql/rows.sql", "FROM t", "FROM u"),
        ("sql/rows.sql", "'a  b'", "'a b'"),
        ("registry.py", "warehouse_like.models:A", "warehouse_like.models:B"),
    ],
)
def test_a_change_of_what_runs_is_a_new_version(room: Path, file: str, old: str, new: str) -> None:
    before = _version()
    _edit(room, file, old, new)
    assert _version() != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("build.py", "# why it does so", "# because"),
        ("build.py", "What it does.", "What it really does."),
        ("build.py", "What a class is made from.", "What classes are made from."),
        ("build.py", "\n\n\ndef", "\n\ndef"),
        ("build.py", '"int"', '"float"'),
        ("build.py", "found: int", "found: float"),
        ("build.py", '@declared("here")', '@declared("there")'),
        ("build.py", "OTHER = 4", "OTHER = 5"),
        ("build.py", "OTHER * double(other)", "OTHER + double(other)"),
        ("build.py", "import math\n", ""),
        ("helper.py", "Rows = tuple", "Rows = list"),  # named by an annotation alone
        ("sql/rows.sql", "-- all rows", "/* every\nrow */"),
        ("sql/rows.sql", "\nFROM", "\n    FROM"),
        ("sql/other.sql", "1", "2"),
        ("unrelated.py", "1", "2"),
        ("models.py", "a = 1", "a = 2"),
        ("tables.py", "this and that", "that and this"),
    ],
)
def test_a_change_of_words_and_of_what_does_not_run_is_none(room: Path, file: str, old: str, new: str) -> None:
    before = _version()
    _edit(room, file, old, new)
    assert _version() == before


def test_what_the_settings_choose_from_a_registry_is_named_beside(room: Path) -> None:
    names = ("warehouse_like.build:build", "warehouse_like.models:A")
    before = _version(*names)
    assert before != _version()
    _edit(room, "models.py", "b = 1", "b = 2")
    assert _version(*names) == before
    _edit(room, "models.py", "a = 1", "a = 2")
    assert _version(*names) != before


def test_scope_is_pythons_own(room: Path) -> None:
    """A parameter or a local name that is called as something of the module is none of it."""
    assert subject.reached("warehouse_like.build:shadows") == {"warehouse_like.build:shadows"}
    assert subject.reached("warehouse_like.build:beside") == {
        "warehouse_like.build:beside",
        "warehouse_like.build:OTHER",
        "warehouse_like.helper:double",
    }


@pytest.mark.parametrize("name", ["warehouse_like.nowhere:build", "warehouse_like.build:nothing", "json:loads"])
def test_what_is_not_there_is_an_error(room: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a module of warehouse_like|has no nothing"):
        _version(name)


def test_every_step_reaches_what_it_is_known_to_run() -> None:
    """Of the code as it is, so that a search that loses its way is noticed."""
    known = {
        "core/sequences": ["warehouse.core.sequences:build_sequences"],
        "features/text_embeddings": ["features.vectors.cache:VectorCache", "features.encoders.models:describe"],
        "models/scratch": [
            "mmm4rec.training.loop:Loop",
            "mmm4rec.checkpoint:write",
            "mmm4rec.data.reading:load_domain",
        ],
        "reports/metrics": ["mmm4rec.evaluation.ranking:rank_labels", "mmm4rec.baselines.popularity:rank_labels"],
        "warehouse/report": ["features.lookup.search:find_pictures", "pipelines.reports.report:build_report"],
    }
    assert "mmm4rec.model.losses:full_cross_entropy" in subject.reached("mmm4rec.model.mmm4rec:MMM4Rec")
    assert "warehouse.raw.rating_rows:write_ratings" in subject.reached("warehouse.raw.reviews:ingest_reviews")
    for key, names in known.items():
        assert set(names) <= subject.reached(STEPS[key].code), key


def test_versions_are_remembered_until_a_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    room = tmp_path / "room"
    room.mkdir()
    source = room / "build.py"
    source.write_text("a = 1\n")
    Remembered([room]).put("room.build:a", "0123")
    assert Remembered([room]).get("room.build:a") == "0123"
    assert Remembered([room]).get("room.build:b") is None
    times = source.stat()
    source.write_text("a = 2\n")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its times kept
    assert Remembered([room]).get("room.build:a") is None
    (kept,) = (tmp_path / "cache").rglob("code_versions.json")
    kept.write_text("[no JSON")
    assert Remembered([room]).get("room.build:a") is None
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    kept.unlink()
    Remembered([room]).put("room.build:a", "4567")
    assert not kept.exists()
