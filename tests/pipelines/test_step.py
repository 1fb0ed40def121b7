"""What a step does around its build."""

import dataclasses
from typing import Any

import pytest

from pipelines.assets import raw  # noqa: F401 - declares the steps
from pipelines.settings import House
from pipelines.step import STEPS, Job
from tests.conftest import Cli
from warehouse.errors import WarehouseError


def test_a_raw_file_that_changes_while_it_is_read_is_not_published(cli: Cli) -> None:
    cli("sample", "--size", "tiny")
    house = House(cli.data)
    step, domain = STEPS["raw/ratings"], house.present()[0]
    path = house.raw_file(domain, "ratings")

    def interrupted(job: Job) -> Any:
        summary = step.build(job)
        with path.open("a") as file:
            file.write("item,user,5.0,1000000000\n")
        return summary

    with pytest.raises(WarehouseError, match=rf"{path.name} of {domain} changed while raw/ratings read it: run it ag"):
        dataclasses.replace(step, build=interrupted).publish(house, domain)
    assert house.store.current("raw/ratings", domain) is None
    artifact, built = step.publish(house, domain)
    assert built
    assert house.store.verify(artifact) == []
