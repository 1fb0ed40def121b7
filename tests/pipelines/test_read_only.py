"""A data folder that came from elsewhere: its links are not followed, and a backup that is read-only is of use."""

import shutil
import sys
from pathlib import Path

import pytest

from pipelines import lineage
from pipelines.assets import core, raw  # noqa: F401 - declare their steps
from pipelines.cli.app import main
from pipelines.data_folder.folder import DATA_VARIABLE, DataFolder
from pipelines.garbage import collect
from pipelines.planner.step import all_steps
from pipelines.running import runs
from pipelines.survey import survey
from tests.pipelines.small import write_shop
from tests.read_only import read_only
from tests.warehouse.work import overwrite
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.lineage import Lineage

STEPS = all_steps()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of which the raw files are read in."""
    data = tmp_path_factory.mktemp("shop")
    write_shop(data, "Toys")
    for key in ("raw/ratings", "raw/metadata"):
        STEPS[key].publish(DataFolder(data), "Toys")
    return data


@pytest.fixture
def data(shop: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(shop, tmp_path / "data"))


def test_a_backup_that_is_read_only_can_be_looked_at(data: Path) -> None:
    damaged = DataFolder(data).store.require("raw/metadata", "Toys")
    overwrite(damaged.main, "damaged")
    with read_only(data):
        data_folder = DataFolder(data)
        found = lineage.verify(data_folder)
        assert [bool(problems) for problems in found.values()] == [True, False]
        assert data_folder.store.marked("damaged") == []
        assert collect(data_folder, dry_run=True) == []
        (row,) = survey(data_folder)
        assert row["domain"] == "Toys"
        assert Lineage.of(data_folder.store).current
        with pytest.raises(ReadOnlyError, match="cannot be written to"):
            collect(data_folder)
        with pytest.raises(ReadOnlyError, match="cannot be written to"):
            STEPS["core/items"].publish(data_folder, "Toys")


def test_a_command_names_what_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (DATA_VARIABLE, "MMM4REC_DAGSTER", "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # so that what the command sets is gone afterwards
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(sys, "argv", ["mmm4rec", "sample", "--data", str(data)])
    with read_only(data), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"error: {data / 'raw_files'}: Permission denied; allow writing to it, or use a data folder")


@pytest.mark.parametrize("link", ["cache", "cache/lookup/Toys", "cache/training/0123456789abcdef/state.json"])
def test_a_link_in_the_cache_is_an_error(data: Path, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere" / "view" / "0123456789abcdef"
    elsewhere.mkdir(parents=True)
    shutil.rmtree(data / "cache", ignore_errors=True)
    (data / link).parent.mkdir(parents=True, exist_ok=True)
    (data / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"{link} is a link.*remove it"):
        collect(DataFolder(data))
    assert elsewhere.is_dir()


def test_dagsters_folder_is_no_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "history").mkdir(parents=True)
    (tmp_path / "elsewhere" / ".making").touch()
    (data / ".dagster").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"\.dagster is a link.*remove it"), runs.open_instance(data / ".dagster"):
        pass
    assert (tmp_path / "elsewhere" / "history").is_dir()


def test_raw_files_may_lie_behind_a_link(data: Path, tmp_path: Path) -> None:
    (data / "raw_files").rename(tmp_path / "disk")
    (data / "raw_files").symlink_to(tmp_path / "disk")
    assert DataFolder(data).present() == ["Toys"]
    assert STEPS["core/items"].publish(DataFolder(data), "Toys")[1]


def test_only_copies_and_states_that_were_made_here_are_garbage(data: Path) -> None:
    strange = [data / "cache" / name for name in ("lookup/Toys/view/photos", "training/photos", "logs/photos")]
    for folder in strange:
        folder.mkdir(parents=True)
    collect(DataFolder(data))
    assert all(folder.is_dir() for folder in strange)
