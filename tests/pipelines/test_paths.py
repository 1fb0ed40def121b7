"""Where a data folder may be: any path that the system allows works, or is refused in words."""

import os
from pathlib import Path

import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from tests.conftest import Cli
from tests.pipelines.small import write_shop

LONGEST = 440
"""Bytes; SQLite opens nothing below a longer one."""


def _of_length(folder: Path, length: int) -> Path:
    """A path below `folder` of so many bytes."""
    rest = length - len(os.fsencode(folder)) - 202
    return folder / ("x" * 200) / ("y" * rest)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (os.fsdecode(b"sh\xffp"), "has a name that is not UTF-8"),
        ("what?", r"a \? in a path, a backslash"),
        ("back\\slash", r"a \? in a path, a backslash"),
        ("100%25", r"or a % before two hexadecimal digits"),
        ("x" * 300, "File name too long"),
        ("a file", "is not a folder: name one with --data"),
        ("a file/data", "a file is not a folder"),
        ("loop/data", "cannot be used"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_in_words(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SettingsError, match=said):
        DataFolder.find(tmp_path / name)


def test_a_path_may_be_as_long_as_sqlite_opens(tmp_path: Path) -> None:
    assert len(os.fsencode(DataFolder.find(_of_length(tmp_path, LONGEST)).path)) == LONGEST
    with pytest.raises(
        SettingsError, match=r"its path has 441 bytes; SQLite, .* opens no file below a path of more than 440"
    ):
        DataFolder.find(_of_length(tmp_path, LONGEST + 1))


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ['it\'s "here" *[x] 100% #1 {b} $HOME;& :=@+', "two\nlines\t\U0001f9f8 \u043a\u043b\u044e\u0447", None]
)
def test_everything_works_below_any_other_name(tmp_path: Path, name: str | None) -> None:
    shop = Cli(tmp_path / name if name else _of_length(tmp_path, LONGEST))
    write_shop(shop.data, "Toys")
    shop("run")
    assert "nothing to do" in shop("run").stdout
    for command in ("domains", "report", "features", "pictures", "verify", "gc --dry-run", "trace models/scratch@Toys"):
        shop(*command.split())
    assert "Toys" in shop("sql", "SELECT domain FROM domains").stdout
    assert "popularity" in shop("sql", "SELECT model FROM reports.metrics").stdout


def test_an_empty_folder_is_told_what_to_do_next(tmp_path: Path) -> None:
    said = Cli(tmp_path)("domains").stdout
    assert "no category has both of its raw files there: run `mmm4rec fetch CATEGORY`" in said.replace("\n", " ")
