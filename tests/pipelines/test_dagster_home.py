"""Whose dagster.yaml holds: the checkout's, or the one that is named for us; never that of another Dagster."""

import os
from pathlib import Path

import pytest

from pipelines.cli.options import HOME_VARIABLE, open_data_folder
from pipelines.errors import CommandError
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set during a test is not set after it."""
    for name in ("MMM4REC_DATA", "MMM4REC_DAGSTER", "DAGSTER_HOME", HOME_VARIABLE):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize("exported", ["others", "nowhere", "./relative"])
def test_that_of_another_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: str
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "dagster.yaml").touch()
    named = exported if exported.startswith(".") else str(tmp_path / exported)
    monkeypatch.setenv("DAGSTER_HOME", named)
    open_data_folder(tmp_path / "data")
    assert os.environ["DAGSTER_HOME"] == str(REPOSITORY)
    assert os.environ["MMM4REC_DAGSTER"] == str(tmp_path / "data/.dagster")
    said = capsys.readouterr().err
    assert f"DAGSTER_HOME={named} belongs to another Dagster and is not used" in said
    assert HOME_VARIABLE in said


@pytest.mark.parametrize("exported", ["", str(REPOSITORY), f"{REPOSITORY}/"])
def test_ours_is_used_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", exported)
    open_data_folder(tmp_path / "data")
    assert os.environ["DAGSTER_HOME"] == str(REPOSITORY)
    assert capsys.readouterr().err == ""


def test_the_package_has_no_other_settings_than_the_checkout() -> None:
    assert (REPOSITORY / "pipelines/dagster_home/dagster.yaml").resolve() == REPOSITORY / "dagster.yaml"


def test_one_that_is_named_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, "mine")
    said = f"{HOME_VARIABLE}=mine: there is no dagster.yaml; copy the project's dagster.yaml"
    with pytest.raises(CommandError, match=said):
        open_data_folder(tmp_path / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/dagster.yaml").touch()
    open_data_folder(tmp_path / "data")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "mine")
