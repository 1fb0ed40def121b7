"""Faults a run survives: nothing changed, damage, kill -9, two runs at once, names that are none."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.planner.plan import plan
from pipelines.planner.step import upstream_first
from pipelines.running.runs import open_instance
from tests.conftest import REPOSITORY, Cli
from tests.warehouse.disturb import moments
from tests.warehouse.work import damage, leave, leftovers, overwrite, staged, versions, write_raw
from warehouse.artifacts.store import ALL

pytestmark = pytest.mark.long

SHOWN = ("warehouse.duckdb", "report.html")
GIVEN = (".dagster", "cache", "raw_files", "domains.yaml")


def _prepare(data: Path) -> None:
    """One domain of the tiny sample, without vectors and with next to no training."""
    Cli(data)("sample", "--size", "tiny")
    for category in ("Kitchen", "Garden", "Sports", "Office"):
        (data / f"raw_files/Sample_{category}.csv").unlink()
    settings = yaml.safe_load((data / "domains.yaml").read_text())
    settings["domains"] = {"Sample_Toys": {"role": "target"}}
    settings["defaults"] = {"text_encoder": {"kind": "none"}, "image_encoder": {"kind": "none"}}
    settings["finetuning"]["epochs"] = 1
    (data / "domains.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("prepared")
    _prepare(data)
    return data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Cli:
    """A data folder after a whole run."""
    data = tmp_path_factory.mktemp("built") / "data"
    shutil.copytree(prepared, data)
    Cli(data)("run")
    return Cli(data)


def _made(data: Path) -> dict[Path, int]:
    """Every version there is, and when its manifest was written."""
    return {path: (path / "manifest.json").stat().st_mtime_ns for path in data.glob("*/*/domain=*/v=*")}


def _sound(data: Path) -> None:
    store = DataFolder(data).store
    assert leftovers(store, *SHOWN, *GIVEN) == []
    assert staged(store) == []
    assert store.exposes(store.require("warehouse/catalogue", ALL), "warehouse.duckdb")
    assert store.exposes(store.require("warehouse/report", ALL), "report.html")


def test_a_second_run_makes_no_new_version(built: Cli) -> None:
    before = _made(built.data)
    for path in (built.data / "raw_files").glob("*.csv"):
        path.touch()
    leave(built.data)
    assert "nothing to do" in built("run").stdout
    data_folder = DataFolder(built.data)
    for step in upstream_first():
        for domain in step.domains(data_folder, data_folder.present()):
            artifact, again = step.publish(data_folder, domain)
            assert not again, artifact.ref
    assert _made(built.data) == before
    _sound(built.data)


def _unshown(data: Path) -> None:
    """Killed between CURRENT and the file that people open: an older one is still there."""
    shown = data / "warehouse.duckdb"
    older = shown.read_bytes()
    shown.unlink()
    shown.write_bytes(older)


def _unpointed(data: Path) -> None:
    """Killed between the rename and CURRENT of a first version."""
    (DataFolder(data).store.folder("core/interactions", "Sample_Toys") / "CURRENT").unlink()


def _no_manifest(data: Path) -> None:
    overwrite(DataFolder(data).store.require("core/items", "Sample_Toys").path / "manifest.json", "{")


def _cut(data: Path) -> None:
    os.truncate(DataFolder(data).store.require("raw/ratings", "Sample_Toys").main, 10)


def _nonsense(data: Path) -> None:
    (DataFolder(data).store.folder("core/sequences", "Sample_Toys") / "CURRENT").write_text("../../../../etc")


def _gone(data: Path) -> None:
    shutil.rmtree(DataFolder(data).store.require("models/scratch", "Sample_Toys").path)


def test_the_next_run_repairs_whatever_is_broken(built: Cli) -> None:
    before = versions(DataFolder(built.data).store)
    for fault in (_unshown, _unpointed, _no_manifest, _cut, _nonsense, _gone):
        fault(built.data)
        data_folder = DataFolder(built.data)
        assert plan(data_folder, data_folder.present()), f"{fault.__name__} was not seen"
    leave(built.data)
    built("run")
    assert versions(DataFolder(built.data).store) == before
    assert not any(damage(DataFolder(built.data).store).values())
    _sound(built.data)


def _start(data: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [REPOSITORY / ".venv/bin/mmm4rec", "run", *arguments],
        env={**os.environ, "MMM4REC_DATA": str(data), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _pair(data: Path, *arguments: str) -> None:
    """Two runs at once, each of which must end well."""
    pair = [_start(data, *arguments) for _ in range(2)]
    said = [run.communicate(timeout=600)[0] for run in pair]
    assert [run.returncode for run in pair] == [0, 0], "\n".join(said)
    assert not any(damage(DataFolder(data).store).values())
    assert leftovers(DataFolder(data).store, *SHOWN, *GIVEN) == []
    assert staged(DataFolder(data).store) == []


def test_two_first_runs_at_once(tmp_path: Path, prepared: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    _pair(data, "--only", "raw/ratings")
    assert len(_made(data)) == 1


def _placeless(data: Path) -> dict[str, str]:
    """What is current, but for the catalogue and what is made from it: these are of their folder."""
    return {
        ref: version for ref, version in versions(DataFolder(data).store).items() if not ref.startswith("warehouse/")
    }


@pytest.mark.soak
def test_many_pairs_of_whole_runs_at_once(tmp_path: Path, prepared: Path, built: Cli) -> None:
    for number in range(5):
        data = tmp_path / str(number)
        shutil.copytree(prepared, data)
        _pair(data)
        Cli(data)("run")
        assert _placeless(data) == _placeless(built.data)
        _sound(data)


@pytest.fixture
def instance_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".dagster"
    monkeypatch.setenv("MMM4REC_DAGSTER", str(folder))
    monkeypatch.setenv("DAGSTER_HOME", str(REPOSITORY))
    return folder


def _domains(folder: Path, *more: str) -> list[str]:
    """The domains that Dagster knows, with some more."""
    with open_instance(folder) as instance:
        instance.add_dynamic_partitions("domain", list(more))
        return sorted(instance.get_dynamic_partitions("domain"))


def test_half_made_databases_are_made_anew_and_whole_ones_are_kept(instance_folder: Path) -> None:
    assert _domains(instance_folder, "Toys") == ["Toys"]
    assert _domains(instance_folder, "Mugs") == ["Mugs", "Toys"]
    # Killed while they were made: some tables are there.
    with closing(sqlite3.connect(instance_folder / "history/runs/index.db")) as database:
        database.execute("DROP TABLE dynamic_partitions")
    (instance_folder / ".making").touch()
    assert _domains(instance_folder, "Pots") == ["Pots"]
    assert not (instance_folder / ".making").exists()


MAKE_DATABASES = """
import sys, pathlib
from pipelines.running.runs import open_instance
print("ready", flush=True)
with open_instance(pathlib.Path(sys.argv[1])):
    print("made", flush=True)
"""


def _make_databases(folder: Path) -> subprocess.Popen[str]:
    """A process that has imported everything and now makes Dagster's databases."""
    command = [sys.executable, "-c", MAKE_DATABASES, str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.soak
def test_killed_while_databases_are_made(instance_folder: Path) -> None:
    process = _make_databases(instance_folder)
    begin = time.perf_counter()
    assert process.communicate()[0] == "made\n"
    seconds = time.perf_counter() - begin
    for moment in moments(20, seconds):
        shutil.rmtree(instance_folder)
        process = _make_databases(instance_folder)
        time.sleep(moment)
        process.kill()
        process.communicate()
        assert _domains(instance_folder, "Toys") == ["Toys"]


@pytest.mark.soak
def test_whole_runs_killed_at_random_moments(tmp_path: Path, prepared: Path, built: Cli) -> None:
    begin = time.perf_counter()
    shutil.copytree(prepared, tmp_path / "calm")
    Cli(tmp_path / "calm")("run")
    seconds = time.perf_counter() - begin
    chance = random.Random(0)
    for number in range(10):
        data = tmp_path / str(number)
        shutil.copytree(prepared, data)
        for _ in range(2):  # also the run that repairs is killed
            run = _start(data)
            time.sleep(chance.uniform(0, seconds))
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            assert leftovers(DataFolder(data).store, *SHOWN, *GIVEN) == []
        Cli(data)("run")
        assert _placeless(data) == _placeless(built.data)
        _sound(data)
        shutil.rmtree(data)


HOSTILE = (
    "a'; DROP TABLE x;--",
    "with space",
    "naïve",
    "new\nline",
    "x" * 200,
    "..",
    "-rf",
    "_all",
    "1st",
    "[bold]x[bold]",
    "*",
    "{0}",
    os.fsdecode(b"\xff"),
)


def _pairs(data: Path, *categories: str) -> Path:
    raw = data / "raw_files"
    raw.mkdir(parents=True, exist_ok=True)
    for category in categories:
        (raw / f"{category}.csv").write_text("i,u,5,1\n")
        (raw / f"meta_{category}.json").write_text('{"asin": "i"}\n')
    return raw


def test_hostile_file_names_hold_up_nobody(cli: Cli) -> None:
    raw = _pairs(cli.data, *HOSTILE)
    write_raw(raw, "Toys", 0)
    ran = cli("run", "--only", "raw/ratings")
    said = " ".join(ran.stderr.split())
    for category in HOSTILE:
        named = f"left out {f'meta_{category}.json'!r}: {category!r} is "
        assert f"{named}no domain name" in said or f"{named}not a domain name" in said
    assert "Traceback" not in said
    assert [artifact.ref for artifact in DataFolder(cli.data).store.all_current()] == ["raw/ratings@Toys"]


def test_a_hostile_category_can_be_given_a_name(tmp_path: Path) -> None:
    _pairs(tmp_path, "with space", "*")
    (tmp_path / "domains.yaml").write_text("domains: {Spaced: {category: with space}}")
    data_folder = DataFolder(tmp_path)
    assert data_folder.present() == ["Spaced"]
    assert data_folder.raw_file("Spaced", "ratings") == "with space.csv"
    assert list(data_folder.left_out()) == ["meta_*.json"]


def test_a_category_does_not_take_the_name_of_another_domain(tmp_path: Path) -> None:
    _pairs(tmp_path, "Toys", "Other")
    (tmp_path / "domains.yaml").write_text("domains: {Toys: {category: Other}}")
    data_folder = DataFolder(tmp_path)
    assert data_folder.settings.domain("Toys").category == "Other"
    assert "already the name" in data_folder.left_out()["meta_Toys.json"]


@pytest.mark.parametrize("name", [*HOSTILE[:-1], "", "../x", "x" * 300, 5, None, True, 1.5, "a\0b"])
def test_a_hostile_domain_name_in_the_settings_is_an_error(tmp_path: Path, name: Any) -> None:
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump({"domains": {name: {}}}))
    with pytest.raises(SettingsError, match=r"(is no|is not a) domain name"):
        DataFolder(tmp_path).present()


@pytest.mark.parametrize("category", ["../x", "a/b", "..\\x", "x" * 300, "é" * 150, "a\nb", "a\0b", "", 5, None, ["x"]])
def test_a_category_that_leads_elsewhere_is_an_error(tmp_path: Path, category: Any) -> None:
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump({"domains": {"Toys": {"category": category}}}))
    with pytest.raises(SettingsError, match=r"Toys: .* is not a category"):
        DataFolder(tmp_path).present()


@pytest.mark.parametrize("settings", [{"domains": ["Toys"]}, {"domains": {"Toys": 3}}, {"defaults": 3}])
def test_settings_of_another_shape_are_an_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SettingsError, match="must be a mapping"):
        DataFolder(tmp_path).present()
