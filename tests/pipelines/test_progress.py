"""Progress: lines in Dagster's event log, few enough for its database, and a terminal that says each thing once."""

import logging
from pathlib import Path

import dagster as dg
import pytest

from pipelines.progress import _Lines, bars
from tests.conftest import REPOSITORY, Cli

LOG = logging.getLogger("mmm4rec")


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "mmm4rec")
    return caplog


def test_a_line_says_how_far_how_fast_and_how_long(logged: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = _Lines("Toys features/item_images", clock)
    lines(1000, 9000)  # as much was there
    for second in range(1, 13):
        clock.now = second
        lines(1000 + 20 * second, 9000)
    assert logged.messages == [
        "Toys features/item_images: 1,200 of 9,000 (13%), 20 a second, 6 min left",
    ]


def test_what_is_short_needs_no_line(logged: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = _Lines("raw/ratings", clock)
    clock.now = 9.0
    lines(0, 0)
    lines(5, 5)
    assert logged.messages == []


@pytest.mark.parametrize(("hours", "most"), [(1, 170), (24, 340)])
def test_the_longest_step_writes_some_hundred_lines(logged: pytest.LogCaptureFixture, hours: int, most: int) -> None:
    clock = Clock()
    lines = _Lines("features/image_embeddings", clock)
    for second in range(hours * 3600):
        clock.now = second
        lines(second, hours * 3600)
    assert 100 < len(logged.messages) < most


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """With the settings that every run has."""
    monkeypatch.setenv("MMM4REC_DAGSTER", str(tmp_path))
    return dg.DagsterInstance.from_config(str(REPOSITORY))


@dg.op
def speak() -> None:
    """As the rooms do."""
    LOG.info("epoch 1 of 2")
    LOG.warning("[bold]a host\x1b[31m does not answer")


@dg.job
def speaking() -> None:
    speak()


def _said(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What was logged in the steps of a run, beside Dagster's own events."""
    return [entry.user_message for entry in instance.all_logs(run_id) if not entry.is_dagster_event]


def test_the_rooms_log_into_dagster_and_warn_in_the_terminal(
    instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with instance, bars():
        run = speaking.execute_in_process(instance=instance, run_config=quiet)
        said = _said(instance, run.run_id)
    assert said == ["epoch 1 of 2", r"[bold]a host\x1b[31m does not answer"]
    terminal = capfd.readouterr().err
    assert terminal.count(r"[bold]a host\x1b[31m does not answer") == 1
    assert terminal.count("does not answer") == 1
    assert "epoch 1 of 2" not in terminal


def test_every_epoch_is_in_the_log_of_its_run(tiny: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMM4REC_DAGSTER", str(tiny.data / ".dagster"))
    with dg.DagsterInstance.from_config(str(REPOSITORY)) as instance:
        said = [line for run in instance.get_runs() for line in _said(instance, run.run_id)]
    for what in ("merged", "Sample_Toys"):
        assert any(line.startswith(f"MMM4Rec on {what}: epoch 1 of 1: loss ") for line in said), what
    assert any("epoch 1 of 1" in line and "validation NDCG@10" in line for line in said)
