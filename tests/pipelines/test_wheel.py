"""Installed from a wheel, away from the checkout: the same settings of Dagster, a run, and the UI."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.pipelines.served import Served
from tests.pipelines.small import write_shop

pytestmark = pytest.mark.long

AS_TEXT: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
LOGS = """query ($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
  __typename ... on MessageEvent { message }
} } } }"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, as building leaves folders behind; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("source")
    for room in ("pipelines", "warehouse", "features", "mmm4rec"):
        shutil.copytree(REPOSITORY / room, folder / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "dagster.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", folder, "--no-deps", "--no-build-isolation", "--wheel-dir", made]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(folder)
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def mmm4rec(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment that has this wheel, and what it needs from here."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel]
    subprocess.run(command, check=True, capture_output=True, env=alone)
    # Only now, and without PYTHONPATH: where pip meets the project already, it installs nothing.
    purelib = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (purelib / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin/mmm4rec"


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, from which nothing of the checkout is found."""
    for name in ("PYTHONPATH", "DAGSTER_HOME", "MMM4REC_DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_wheel_has_the_settings_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        assert files.read("pipelines/dagster_home/dagster.yaml") == (REPOSITORY / "dagster.yaml").read_bytes()


def test_a_domain_and_the_ui(mmm4rec: Path, away: Path) -> None:
    data = away / "data"
    write_shop(data, "Toys")
    run = subprocess.run([mmm4rec, "run", "Toys", "--data", data], **AS_TEXT)
    assert "telemetry" not in (run.stdout + run.stderr).lower()
    assert (data / "report.html").is_file()
    home = mmm4rec.parent.parent
    shown = subprocess.run([home / "bin/python", "-c", "import pipelines; print(pipelines.__file__)"], **AS_TEXT)
    assert Path(shown.stdout).is_relative_to(home), "not the checkout's"
    with Served(data, command=mmm4rec) as served:
        said = served.ask("{ instance { info runLauncher { name } } }")["instance"]
        assert said["runLauncher"]["name"] == "RunLauncher"
        for setting in ("telemetry:\n  enabled: false", "free_slots_after_run_end_seconds", "managed_python_loggers"):
            assert setting in said["info"], said["info"]
        for path in sorted(data.glob("models/scratch/domain=Toys")):
            shutil.rmtree(path)
        begun = served.launch("Toys", "models/scratch")
        assert served.ended(begun) == "SUCCESS"
        events = served.ask(LOGS, run=begun)["logsForRun"]["events"]
        assert any("MMM4Rec on Toys: epoch 1 of 1: loss" in event.get("message", "") for event in events)
    log = served.log.read_text()
    assert "telemetry" not in log.lower()
    assert "Warning: " not in log
    assert [path.name for path in home.rglob("*dagster*") if path.name == "dagster_home"] == ["dagster_home"]
    assert not list(home.rglob(".telemetry"))
