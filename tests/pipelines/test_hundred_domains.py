"""A hundred domains: what looking at them costs, when nothing is to be done."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines import automation
from pipelines.settings import House
from pipelines.step import STEPS, upstream_first
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from warehouse.store import ALL, Artifact


def _copies(data: Path, names: Sequence[str]) -> None:
    """Domains like the built Toys: the same raw files under other names, every artifact with a recipe of its own."""
    raw = data / "raw_files"
    for name in names:
        shutil.copy(raw / "Toys.csv", raw / f"{name}.csv")
        shutil.copy(raw / "meta_Toys.json", raw / f"meta_{name}.json")
    house = House(data)
    for step in upstream_first():
        for name in names if step.per_domain else ():
            template = house.store.require(step.key, "Toys")

            def build(out: Path, template: Artifact = template) -> Mapping[str, Any]:
                for file in template.manifest["files"]:
                    shutil.copy(template.path / file, out / file)
                return template.manifest["summary"]  # type: ignore[no-any-return]

            house.store.publish(step.recipe(house, name, step.inputs(house, name)), build, step.identity)
    for key in ("warehouse/catalogue", "warehouse/report"):
        STEPS[key].publish(house, ALL)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a target domain, built."""
    data = tmp_path_factory.mktemp("toys") / "data"
    write_shop(data, "Toys", sources=("Mugs",))
    Cli(data)("run")
    return data


def _tick(data: Path, cursor: str | None, instance: dg.DagsterInstance) -> Any:
    return automation.raw_files(dg.build_sensor_context(instance, cursor))
