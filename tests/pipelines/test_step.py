"""What a step does around its build."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from features.errors import FeatureError
from pipelines import step as steps
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


def _no_network() -> None:
    try:
        raise ConnectionRefusedError("nobody listens")
    except ConnectionRefusedError as error:
        raise FeatureError("the model could not be fetched") from error


def _never_right() -> None:
    raise WarehouseError("the file is empty")


def _our_fault() -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize(("fail", "tries"), [(_no_network, 3), (_never_right, 1), (_our_fault, 1)])
def test_only_what_may_pass_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Any, tries: int
) -> None:
    monkeypatch.setenv("MMM4REC_DATA", str(tmp_path))
    monkeypatch.setattr(steps, "RETRIES", dg.RetryPolicy(max_retries=steps.RETRIES.max_retries))
    monkeypatch.setattr(steps, "STEPS", {})
    tried = []

    def build(job: Job) -> Any:
        tried.append(job)
        fail()

    asset = steps.step("raw/flaky", "warehouse.reviews", per_domain=False)(build)
    result = dg.materialize([asset], raise_on_error=False)
    assert not result.success
    assert len(tried) == tries
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "the model could" in str(event) or "the file is empty" in str(event) or "a bug" in str(event)
