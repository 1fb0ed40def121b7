"""A hundred domains: what looking at them costs, when nothing is to be done."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.plan import plan
from pipelines.planner.step import all_steps, upstream_first
from pipelines.running import automation
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from warehouse.artifacts import hashes
from warehouse.artifacts.store import ALL, Artifact

STEPS = all_steps()

pytestmark = pytest.mark.long


def _copies(data: Path, names: Sequence[str]) -> None:
    """Domains like the built Toys: the same raw files under other names, every artifact with a recipe of its own."""
    raw = data / "raw_files"
    for name in names:
        shutil.copy(raw / "Toys.csv", raw / f"{name}.csv")
        shutil.copy(raw / "meta_Toys.json", raw / f"meta_{name}.json")
    data_folder = DataFolder(data)
    for step in upstream_first():
        for name in step.domains(data_folder, names) if step.per_domain else ():
            template = data_folder.store.require(step.key, "Toys")

            def build(out: Path, template: Artifact = template) -> Mapping[str, Any]:
                for file in template.manifest.files:
                    shutil.copy(template.path / file, out / file)
                return template.manifest.summary

            data_folder.store.publish(
                step.recipe(data_folder, name, step.inputs(data_folder, name)), build, step.identity
            )
    for key in ("warehouse/catalogue", "warehouse/report"):
        STEPS[key].publish(data_folder, ALL)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a target domain, built."""
    data = tmp_path_factory.mktemp("toys") / "data"
    write_shop(data, "Toys", sources=("Mugs",))
    Cli(data)("run")
    return data


def _tick(data: Path, cursor: str | None, instance: dg.DagsterInstance) -> Any:
    context = dg.build_sensor_context(instance, cursor)
    return automation.raw_files(context, DataFolder(data))


@pytest.mark.parametrize("count", [6, pytest.param(98, marks=pytest.mark.soak)])
def test_nothing_to_do(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(toys, tmp_path / "data"))
    _copies(data, [f"Shop{number:02}" for number in range(count)])
    monkeypatch.setenv("MMM4REC_DATA", str(data))
    data_folder = DataFolder(data)
    assert len(data_folder.present()) == count + 2
    assert plan(data_folder, data_folder.present()) == []
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        cursor = None
        for _ in range(2):
            cursor = _tick(data, cursor, instance).cursor
        # What was hashed is remembered: neither a sweep nor a tick reads a raw file again.
        read: list[Path] = []
        monkeypatch.setattr(hashes, "sha256_file", read.append)
        begin = time.perf_counter()
        assert not _tick(data, cursor, instance).run_requests
        tick = time.perf_counter() - begin
    begin = time.perf_counter()
    assert plan(DataFolder(data), data_folder.present()) == []
    sweep = time.perf_counter() - begin
    assert read == []
    with capsys.disabled():
        print(f"\n{count + 2} domains: a tick {tick:.3f} s, a sweep {sweep:.2f} s")
