"""What a step does around its build."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from features.errors import FeatureError
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import CommandError
from pipelines.lineage import verify
from pipelines.planner import asset as assets
from pipelines.planner import step as steps
from pipelines.planner.blocking import CHECKS, CheckError
from pipelines.planner.plan import plan
from pipelines.planner.step import Job, all_steps
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from tests.warehouse.work import write_raw
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.lineage import named

STEPS = all_steps()


@pytest.mark.long
def test_a_raw_file_that_changes_while_it_is_read_is_not_published(cli: Cli) -> None:
    cli("sample", "--size", "tiny")
    data_folder = DataFolder(cli.data)
    step, domain = STEPS["raw/ratings"], data_folder.present()[0]
    path = data_folder.raw_folder / data_folder.raw_file(domain, "ratings")

    def interrupted(job: Job) -> Any:
        summary = step.build(job)
        with path.open("a") as file:
            file.write("item,user,5.0,1000000000\n")
        return summary

    with pytest.raises(StoreError, match=rf"{path.name} of {domain} changed while raw/ratings read it: run it ag"):
        dataclasses.replace(step, build=interrupted).publish(data_folder, domain)
    assert data_folder.store.current("raw/ratings", domain) is None
    artifact, built = step.publish(data_folder, domain)
    assert built
    assert data_folder.store.verify(artifact) == []


@pytest.fixture
def data_folder(tmp_path: Path) -> DataFolder:
    """Raw files of Toys, and their settings."""
    write_shop(tmp_path, "Toys")
    return DataFolder(tmp_path)


RATINGS = STEPS["raw/ratings"]


def _losing_a_row(job: Job) -> Any:
    summary = RATINGS.build(job)
    table = job.out / "ratings.parquet"
    pq.write_table(pq.read_table(table).slice(1), table)
    return summary


def _stale(data_folder: DataFolder) -> list[str]:
    asked = ["raw/ratings", "core/interactions"]
    return [key for key in _planned(data_folder, *asked) if key in asked]


def _planned(data_folder: DataFolder, *only: str) -> list[str]:
    return [step.key for stage in plan(data_folder, ["Toys"], only) for step in stage.steps]


@pytest.mark.parametrize(
    ("only", "said"),
    [("core/item", "did you mean 'core/items'"), ("core/items,raw/ratings", "for several assets, repeat --only")],
)
def test_an_unknown_asset_is_an_error_that_says_what_is_meant(data_folder: DataFolder, only: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        plan(data_folder, ["Toys"], [only])


def test_only_an_asset_is_built_with_what_it_lacks_and_takes_what_is_there(data_folder: DataFolder) -> None:
    assert _planned(data_folder, "core/items") == ["raw/metadata", "core/items"]
    for key in ("raw/metadata", "core/items"):
        STEPS[key].publish(data_folder, "Toys")
    assert _planned(data_folder, "core/items") == []
    write_raw(data_folder.raw_folder, "Toys", 1)
    assert _planned(data_folder, "core/items") == []
    assert _planned(data_folder, "core/items", "raw/metadata") == ["raw/metadata", "core/items"]


def test_what_fails_its_check_is_not_published(data_folder: DataFolder) -> None:
    before, _ = RATINGS.publish(data_folder, "Toys")
    write_raw(data_folder.raw_folder, "Toys", 1)
    for _ in range(2):
        with pytest.raises(CheckError, match=r"raw/ratings of Toys is not published.*every_line.* failed: ") as caught:
            dataclasses.replace(RATINGS, build=_losing_a_row).publish(data_folder, "Toys")
        assert set(caught.value.counts.values()) == {0, 1}
        assert data_folder.store.versions().keys() == {before.named}
        assert data_folder.store.require("raw/ratings", "Toys") == before, "readers keep what passed"
        assert _stale(data_folder) == ["raw/ratings", "core/interactions"]
        assert verify(data_folder) == {named(before.named): []}
    after, built = RATINGS.publish(data_folder, "Toys")
    assert built
    assert data_folder.store.require("raw/ratings", "Toys") == after != before


def test_a_version_that_fails_a_check_that_came_later_counts_as_absent(
    data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before_the_check:
        before_the_check.delitem(CHECKS, "raw/ratings")  # type: ignore[arg-type]
        old, _ = dataclasses.replace(RATINGS, build=_losing_a_row).publish(data_folder, "Toys")
    assert _stale(data_folder) == ["core/interactions"]
    with pytest.raises(CheckError, match="every_line_accounted_for failed"):
        RATINGS.publish(data_folder, "Toys")
    for _ in range(2):
        assert _stale(data_folder) == ["raw/ratings", "core/interactions"]
        (problem,) = verify(data_folder)[named(old.named)]
        assert "has failed its check" in problem
    STEPS["raw/metadata"].publish(data_folder, "Toys")
    STEPS["core/items"].publish(data_folder, "Toys")
    with pytest.raises(StoreError, match=r"raw/ratings@Toys, which core/interactions reads, .*`mmm4rec run Toys`"):
        STEPS["core/interactions"].publish(data_folder, "Toys")
    assert RATINGS.publish(data_folder, "Toys")[1]
    assert not any(verify(data_folder).values())
    assert STEPS["core/interactions"].publish(data_folder, "Toys")[1]


def test_the_state_of_a_training_goes_once_it_is_published(data_folder: DataFolder) -> None:
    def training(job: Job) -> Any:
        job.state.mkdir(parents=True)
        states.append(job.state)
        return RATINGS.build(job)

    def interrupted(job: Job) -> Any:
        training(job)
        raise KeyboardInterrupt

    states: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(RATINGS, build=interrupted).publish(data_folder, "Toys")
    assert states[0].is_dir()
    states[0].rmdir()
    dataclasses.replace(RATINGS, build=training).publish(data_folder, "Toys")
    assert states[0] == states[1]
    assert not states[0].exists()


def _no_network() -> None:
    try:
        raise ConnectionRefusedError("nobody listens")
    except ConnectionRefusedError as error:
        raise FeatureError("the model could not be fetched") from error


def _never_right() -> None:
    raise StoreError("the file is empty")


def _our_fault() -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize(("fail", "tries"), [(_no_network, 3), (_never_right, 1), (_our_fault, 1)])
def test_only_what_may_pass_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Any, tries: int
) -> None:
    monkeypatch.setattr(assets, "RETRIES", dg.RetryPolicy(max_retries=assets.RETRIES.max_retries))
    monkeypatch.setattr(steps, "DECLARED", {})
    tried = []

    def build(job: Job) -> Any:
        tried.append(job)
        fail()

    # Code versions are of the project's functions.
    build.__module__, build.__name__ = RATINGS.code.split(":")
    asset = assets.asset_of(steps.step("raw/flaky", "warehouse", per_domain=False)(build))
    result = dg.materialize([asset], resources={"data_folder": DataFolder(tmp_path)}, raise_on_error=False)
    assert not result.success
    assert len(tried) == tries
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert "the model could" in str(event) or "the file is empty" in str(event) or "a bug" in str(event)
