"""What a step does around its build."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from features.errors import FeatureError
from pipelines import step as steps
from pipelines.blocking import CHECKS, CheckError
from pipelines.lineage import verify
from pipelines.plan import plan
from pipelines.settings import House
from pipelines.step import STEPS, Job
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from tests.warehouse.work import write_raw
from warehouse.errors import WarehouseError
from warehouse.lineage import named


@pytest.mark.long
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


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Raw files of Toys, and their settings."""
    write_shop(tmp_path, "Toys")
    return House(tmp_path)


RATINGS = STEPS["raw/ratings"]


def _losing_a_row(job: Job) -> Any:
    summary = RATINGS.build(job)
    table = job.out / "ratings.parquet"
    pq.write_table(pq.read_table(table).slice(1), table)
    return summary


def _stale(house: House) -> list[str]:
    return [step.key for stage in plan(house, ["Toys"], ["raw/ratings", "core/interactions"]) for step in stage.steps]


def test_what_fails_its_check_is_not_published(house: House) -> None:
    before, _ = RATINGS.publish(house, "Toys")
    write_raw(house.raw_folder, "Toys", 1)
    for _ in range(2):
        with pytest.raises(CheckError, match=r"raw/ratings of Toys is not published.*every_line.* failed: ") as caught:
            dataclasses.replace(RATINGS, build=_losing_a_row).publish(house, "Toys")
        assert set(caught.value.counts.values()) == {0, 1}
        assert house.store.versions().keys() == {before.named}
        assert house.store.require("raw/ratings", "Toys") == before, "readers keep what passed"
        assert _stale(house) == ["raw/ratings", "core/interactions"]
        assert verify(house) == {named(before.named): []}
    after, built = RATINGS.publish(house, "Toys")
    assert built
    assert house.store.require("raw/ratings", "Toys") == after != before


def test_a_version_that_fails_a_check_that_came_later_counts_as_absent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before_the_check:
        before_the_check.delitem(CHECKS, "raw/ratings")  # type: ignore[arg-type]
        old, _ = dataclasses.replace(RATINGS, build=_losing_a_row).publish(house, "Toys")
    assert _stale(house) == ["core/interactions"]
    with pytest.raises(CheckError, match="every_line_accounted_for failed"):
        RATINGS.publish(house, "Toys")
    for _ in range(2):
        assert _stale(house) == ["raw/ratings", "core/interactions"]
        (problem,) = verify(house)[named(old.named)]
        assert "has failed its check" in problem
    STEPS["raw/metadata"].publish(house, "Toys")
    STEPS["core/items"].publish(house, "Toys")
    with pytest.raises(WarehouseError, match=r"raw/ratings@Toys, which core/interactions reads, .*`mmm4rec run Toys`"):
        STEPS["core/interactions"].publish(house, "Toys")
    assert RATINGS.publish(house, "Toys")[1]
    assert not any(verify(house).values())
    assert STEPS["core/interactions"].publish(house, "Toys")[1]


def test_the_state_of_a_training_goes_once_it_is_published(house: House) -> None:
    def training(job: Job) -> Any:
        job.state.mkdir(parents=True)
        states.append(job.state)
        return RATINGS.build(job)

    def interrupted(job: Job) -> Any:
        training(job)
        raise KeyboardInterrupt

    states: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(RATINGS, build=interrupted).publish(house, "Toys")
    assert states[0].is_dir()
    states[0].rmdir()
    dataclasses.replace(RATINGS, build=training).publish(house, "Toys")
    assert states[0] == states[1]
    assert not states[0].exists()


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

    # Code versions are of the house's functions.
    build.__module__, build.__name__ = RATINGS.code.split(":")
    asset = steps.step("raw/flaky", "warehouse", per_domain=False)(build)
    result = dg.materialize([asset], raise_on_error=False)
    assert not result.success
    assert len(tried) == tries
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "the model could" in str(event) or "the file is empty" in str(event) or "a bug" in str(event)
