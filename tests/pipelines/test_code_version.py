"""Code versions move with code and SQL, and stand still when only words about them change."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import code_version as subject
from pipelines import definitions  # noqa: F401, declares the steps
from pipelines.step import STEPS

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

    def build() -> None: ...

    build.__module__ = "warehouse_like.build"
    return subject.code_version(build)


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
    assert STEPS["raw/ratings"].code_version
    assert {"warehouse.ratings", "warehouse.reviews", "warehouse.records", "warehouse.raw"} <= set(seen)
