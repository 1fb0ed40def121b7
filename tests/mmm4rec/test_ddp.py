"""Several devices, as processes on the CPU: the same training, divided."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import ProcessExitedException

from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data import DomainData, Features
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.training import Epoch, fit

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]


def trained(domain: DomainData, model: ModelConfig, training: TrainConfig, out: Path, **options) -> Path:
    out.mkdir()
    fit(domain, model, training, out, **options)
    return out


def assert_same_training(one: Path, two: Path) -> None:
    """Equal but for rounding: sums are taken in another order."""
    weights, divided = (load_file(out / "model.safetensors") for out in (one, two))
    assert weights.keys() == divided.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(divided[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    losses, of_two = (pq.read_table(out / "history.parquet")["loss"].to_pylist() for out in (one, two))
    assert of_two[1:] == pytest.approx(losses[1:], rel=1e-5)


def test_two_processes_give_the_result_of_one(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    """With dropout. A step has five batches for the two, the last step of an epoch one."""
    training = quick(batch_size=16, accumulate=5)
    batches = -(-len(domain.examples("training", 6)) // 16)
    assert batches % 5 == 1
    one = trained(domain, small(), training, tmp_path / "one")
    told: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    two = trained(
        domain,
        small(),
        replace(training, devices=2),
        tmp_path / "two",
        on_epoch=told.append,
        progress=lambda *step: steps.append(step),
    )
    assert_same_training(one, two)
    assert [epoch.epoch for epoch in told] == [0, 1, 2], "told by the first process alone"
    assert batches == 11
    assert steps == [(n, 6) for n in range(1, 7)]


@pytest.mark.soak
def test_a_divided_training_of_which_a_process_is_killed_goes_on(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    training = quick(batch_size=16, accumulate=5, devices=2)
    whole = trained(domain, small(), training, tmp_path / "whole")
    out, again = tmp_path / "again", {"state": tmp_path / "state", "state_seconds": 0}
    out.mkdir()

    def kill(done: int, total: int) -> None:
        if done == 10:
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        fit(domain, small(), training, out, progress=kill, **again)
    summary = fit(domain, small(), training, out, **again)
    assert summary.resumed_at is not None
    assert summary.device == "2 x cpu"
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name


@pytest.mark.soak
def test_the_in_batch_loss_divides_too(domain: DomainData, tmp_path: Path, small: Config, quick: Training) -> None:
    """Negatives come from the batch itself, not from those of other devices."""
    training = quick(batch_size=16, accumulate=3, loss="in_batch")
    one = trained(domain, small(), training, tmp_path / "one")
    three = trained(domain, small(), replace(training, devices=3), tmp_path / "three")
    assert_same_training(one, three)


def test_an_error_in_a_process_comes_as_itself(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    huge = Features(torch.full_like(domain.text.vectors, 3e38), domain.text.present)
    training = quick(batch_size=16, accumulate=2, devices=2, validate_every=0, keep="last")
    with pytest.raises(ModelError, match=r"not finite at epoch 1, batch 1 to 2; .*those of epoch 0, are in"):
        trained(replace(domain, text=huge), small(), training, tmp_path / "out")


def test_a_step_must_have_a_batch_for_every_device(quick: Training) -> None:
    with pytest.raises(ConfigError, match="accumulate is 1 but devices is 2"):
        quick(devices=2, accumulate=1)
