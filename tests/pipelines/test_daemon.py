"""Dagster with its daemon, for real: files dropped into a folder become recommendations; killed, filled, cancelled."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from pipelines.planner.step import all_steps
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.served import ENDED, JOB, TERMINATE, Run, Served
from tests.pipelines.small import LONG, write_settings, write_shop
from tests.warehouse.work import damage, staged, write_raw
from warehouse.catalogue.query import query

STEPS = all_steps()

pytestmark = pytest.mark.long

ALONE: dict[str, Any] = {"automation": {"enabled": True, "interval": 1}}
ROLES = {"Mugs": {"role": "source"}}
ASSETS = [key for key, step in STEPS.items() if step.per_domain]
LITTLE = 2 << 20
"""Bytes that are left: enough for Dagster's own notes, not for the tables of `MANY` users."""
MANY = 20_000
ADD = """
mutation ($name: String!, $repositoryLocationName: String!, $repositoryName: String!) {
  addDynamicPartition(
    repositorySelector: {repositoryLocationName: $repositoryLocationName, repositoryName: $repositoryName}
    partitionsDefName: "domain"
    partitionKey: $name
  ) { __typename }
}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source domain, built."""
    data = tmp_path_factory.mktemp("shop") / "data"
    write_shop(data, sources=("Mugs",), **ALONE)
    Cli(data)("run")
    return data


@pytest.fixture
def data(shop: Path, tmp_path: Path) -> Path:
    """A copy of it, without the runs: what Dagster knows names folders."""
    return Path(shutil.copytree(shop, tmp_path / "data", ignore=shutil.ignore_patterns(".dagster")))


def _versions(data: Path) -> dict[str, str]:
    return {artifact.ref: artifact.version for artifact in DataFolder(data).store.all_current()}


def _sound(data: Path) -> None:
    """Everything is built, whole, and nothing is left of what was disturbed."""
    data_folder = DataFolder(data)
    assert plan(data_folder, data_folder.present()) == []
    assert not any(damage(data_folder.store).values())
    data_folder.store.sweep()
    assert staged(data_folder.store) == []


def _recommended(data: Path) -> set[str]:
    """The domains that have recommendations in the catalogue."""
    rows = query(DataFolder(data).catalogue, "SELECT DISTINCT domain FROM reports.recommendations", {}).to_pylist()
    return {row["domain"] for row in rows}


def _quiet(served: Served) -> bool:
    """All runs have ended, and everything is built."""
    data_folder = DataFolder(served.data)
    return all(run.status in ENDED for run in served.runs()) and not plan(data_folder, data_folder.present())


@pytest.mark.parametrize("changes", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_a_category_dropped_into_the_folder_ends_as_recommendations(data: Path, changes: int) -> None:
    """Then its raw file changes, so often, and just it is built again."""
    with Served(data) as served:
        # The catalogue says where its files lie: in a copied folder it is made anew.
        served.until(lambda: served.ticks("raw_files") > 2 and _quiet(served), "it has looked around")
        before, known = _versions(data), len(served.runs())
        write_raw(data / "raw_files", "Toys", 0)
        served.until(lambda: "models/finetuned@Toys" in _versions(data) and _quiet(served), "Toys is built")
        assert _recommended(data) == {"Mugs", "Toys"}
        built = _versions(data)
        assert {ref for ref in before if built[ref] != before[ref]} == {
            "warehouse/catalogue@_all",
            "warehouse/report@_all",
        }

        for generation in range(1, changes + 1):
            write_raw(data / "raw_files", "Toys", generation)
            old = built["raw/ratings@Toys"]
            served.until(
                lambda old=old: _versions(data)["raw/ratings@Toys"] != old and _quiet(served),  # type: ignore[misc]
                "Toys is built again",
            )
            again = _versions(data)
            assert {ref for ref in built if again[ref] != built[ref] and not ref.endswith("@Toys")} <= {
                "warehouse/catalogue@_all",
                "warehouse/report@_all",
            }
            assert again["models/finetuned@Toys"] != built["models/finetuned@Toys"]
            built = again
        runs = served.runs()[known:]
        assert [(run.status, run.partition) for run in runs] == [("SUCCESS", "Toys"), ("SUCCESS", None)] * (changes + 1)
        assert served.slots() == 0
    _sound(data)


def _training(served: Served, domain: str) -> tuple[Run, int]:
    """The run of a domain once it trains, and the process that does."""

    def found() -> tuple[Run, int] | None:
        said = served.log.read_text()
        for run in served.runs():
            step = re.search(f"{run.id} - (\\d+) - models__\\w+ - STEP_START", said)
            if step and run.partition == domain and run.status == "STARTED":
                return run, int(step[1])
        return None

    return cast(tuple[Run, int], served.until(found, f"{domain} is being trained"))


@pytest.fixture
def quick_home(tmp_path: Path) -> dict[str, str]:
    """The shipped dagster.yaml with run monitoring that looks every second."""
    home = tmp_path / "home"
    home.mkdir()
    shipped = (REPOSITORY / "dagster.yaml").read_text()
    quick = re.sub(r"(poll_interval_seconds|free_slots_after_run_end_seconds): \d+", r"\1: 1", shipped)
    (home / "dagster.yaml").write_text(quick)
    return {"MMM4REC_DAGSTER_HOME": str(home)}


@pytest.mark.soak
def test_cancelled_then_two_at_once(data: Path, quick_home: dict[str, str]) -> None:
    write_settings(data, domains=ROLES, finetuning=LONG)
    write_raw(data / "raw_files", "Toys", 0)
    with Served(data, quick_home) as served:
        served.ask(ADD, name="Toys", **JOB)
        cancelled = served.launch("Toys", *ASSETS)
        _training(served, "Toys")
        assert served.slots()
        served.ask(TERMINATE, run=cancelled)
        assert served.ended(cancelled) == "CANCELED"
        served.until(lambda: served.slots() == 0, "its slot is free")
        data_folder = DataFolder(data)
        assert data_folder.store.require("core/sequences", "Toys")
        assert data_folder.store.current("models/scratch", "Toys") is None
        assert not any(damage(data_folder.store).values())

        write_settings(data, domains=ROLES)
        pair = [served.launch("Toys", *ASSETS) for _ in range(2)]
        assert [served.ended(run) for run in pair] == ["SUCCESS", "SUCCESS"]
        assert served.slots() == 0
    assert all(len(list(folder.glob("v=*"))) == 1 for folder in data.glob("*/*/domain=Toys"))
    Cli(data)("run")
    _sound(data)


@pytest.mark.soak
@pytest.mark.parametrize("victim", ["everything", "mmm4rec ui", "the daemon", "the step"])
def test_killed_during_a_run(data: Path, quick_home: dict[str, str], victim: str) -> None:
    write_settings(data, domains=ROLES, finetuning=LONG, **ALONE)
    write_raw(data / "raw_files", "Toys", 0)
    with Served(data, quick_home) as served:
        disturbed, step = _training(served, "Toys")
        write_settings(data, domains=ROLES, **ALONE)
        if victim == "everything":
            served.kill()
        elif victim == "mmm4rec ui":
            served.process.kill()
            served.process.wait()
            served.until(lambda: not served.processes(), "all that it has started ends")
        elif victim == "the daemon":
            for pid in served.processes("dagster._daemon"):
                os.kill(pid, signal.SIGKILL)
            served.until(lambda: served.process.poll() is not None, "all ends with the daemon")
            served.kill()
        else:
            os.kill(step, signal.SIGKILL)
            assert served.ended(disturbed.id) == "SUCCESS", "the step is tried again"
            served.until(lambda: _recommended(data) == {"Mugs", "Toys"} and _quiet(served), "it goes on")
    assert not any(damage(DataFolder(data).store).values())
    if victim != "the step":
        with Served(data, quick_home) as served:
            served.until(lambda: _recommended(data) == {"Mugs", "Toys"} and _quiet(served), "it is mended")
            assert served.run(disturbed.id).status == "FAILURE"
            served.until(lambda: served.slots() == 0, "its slot is free")
    _sound(data)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.soak
def test_the_disk_is_full(shop: Path, small_disk: Path) -> None:
    data = Path(shutil.copytree(shop, small_disk / "data", ignore=shutil.ignore_patterns(".dagster")))
    before = _versions(data)
    write_raw(data / "raw_files", "Toys", 0, users=MANY, items=50)
    with Served(data) as served:
        ballast = small_disk / "ballast"
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(free - LITTLE))
        served.until(lambda: [run for run in served.runs() if run.status == "FAILURE"], "a run fails")
        assert {ref: version for ref, version in _versions(data).items() if ref in before} == before
        assert not any(damage(DataFolder(data).store).values())
        ballast.unlink()
        (data / "raw_files" / "Toys.csv").touch()
        served.until(lambda: _recommended(data) == {"Mugs", "Toys"} and _quiet(served), "it is mended")
    _sound(data)
