"""A training killed anywhere and run again ends with the weights of an unbroken one."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ModelError
from mmm4rec.training.fit import LAST_GOOD, Epoch, TrainSummary, fit

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]

FILES = ("history.parquet", "items.parquet", "model.json", "model.safetensors")

RUNS = """
import json, os, signal, sys, time
from pathlib import Path
import torch
import lightning_fabric  # once, before the forks
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.reading import load_domain
from mmm4rec.training.fit import fit

torch.set_num_threads(1)
plan = json.loads(sys.argv[1])
folder = Path(plan["domain"])
domain = load_domain(folder, folder / "text.parquet", folder / "image.parquet", "Toys")
for out, kill in plan["runs"]:
    child = os.fork()
    if not child:
        steps = 0
        def progress(done, total):
            global steps
            steps += 1
            if kill and kill[0] == "step" and steps == kill[1]:
                os.kill(os.getpid(), signal.SIGKILL)
        summary = fit(
            domain, ModelConfig.from_dict(plan["model"]), TrainConfig.from_dict(plan["training"]), Path(out),
            state=Path(out + "-state"), state_seconds=0, progress=progress,
        )
        print(json.dumps([summary.resumed_at, summary.optimiser_steps]), flush=True)
        os._exit(0)
    if kill and kill[0] == "after":
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0 or (kill and code == -signal.SIGKILL), code
"""
"""Trainings in forked processes, one after another: ["step", n] kills the process when it has done n optimiser
steps, ["after", seconds] kills it from outside, null lets it live."""


def unbroken_and_broken(
    folder: Path, model: ModelConfig, training: TrainConfig, kills: list
) -> tuple[Path, Path, int, int]:
    """The same training once in one piece and once killed as `kills` says: both results, where the last run of the
    broken one took over, and the optimiser steps of all."""
    whole, broken = folder / "whole", folder / "broken"
    whole.mkdir()
    broken.mkdir()
    plan = {
        "domain": str(folder),
        "model": asdict(model),
        "training": asdict(training),
        "runs": [(str(whole), None), *((str(broken), kill) for kill in kills), (str(broken), None)],
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(plan)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0][0] is None
    return whole, broken, lines[-1][0], lines[-1][1]


def same_files(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


@pytest.mark.long
def test_a_run_killed_four_times_ends_as_an_unbroken_one(domain_folder: Path, small: Config, quick: Training) -> None:
    """Within an epoch, after its end, right after resuming, and late; with dropout."""
    training = quick(epochs=3, batch_size=16, accumulate=2)
    kills = [["step", 3], ["step", 7], ["step", 1], ["step", 4]]
    whole, broken, taken_over, steps = unbroken_and_broken(domain_folder, small(), training, kills)
    # The state is saved when a step is told, so each kill costs at most the one step that it came after.
    assert 3 + 7 + 1 + 4 - 4 <= taken_over < steps
    assert same_files(whole, broken)
    assert not broken.with_name("broken-state").exists(), "removed at the end"


@pytest.mark.soak
@pytest.mark.parametrize("keep", ["best", "last"])
def test_thirty_kills_at_random_moments(domain_folder: Path, small: Config, quick: Training, keep: str) -> None:
    training = quick(epochs=40, batch_size=8, accumulate=3, keep=keep, patience=None)
    chance = random.Random(7)
    kills: list = [["after", chance.uniform(0.01, 0.6)] for _ in range(30)]
    whole, broken, _, _ = unbroken_and_broken(domain_folder, small(layers=2), training, kills)
    assert same_files(whole, broken)


class Stop(Exception):  # noqa: N818
    """What stops a training in these tests, from within."""


def interrupted(domain: DomainData, model: ModelConfig, training: TrainConfig, folder: Path, epoch: int = 1) -> Path:
    """The state of a training stopped at the end of an epoch: the one that the last optimiser step before it left."""
    folder.mkdir(exist_ok=True)

    def stop(done: Epoch) -> None:
        if done.epoch == epoch:
            raise Stop

    with pytest.raises(Stop):
        fit(domain, model, training, folder, state=folder / "state", state_seconds=0, on_epoch=stop)
    return folder / "state"


def resume(domain: DomainData, model: ModelConfig, training: TrainConfig, folder: Path, **options) -> TrainSummary:
    return fit(domain, model, training, folder, state=folder / "state", state_seconds=0, **options)


def test_early_stopping_goes_on_counting(domain: DomainData, tmp_path: Path, small: Config, quick: Training) -> None:
    training = quick(epochs=50, patience=3, learning_rate=1e-9, batch_size=64)
    interrupted(domain, small(), training, tmp_path / "a", epoch=2)
    resumed = resume(domain, small(), training, tmp_path / "a")
    (tmp_path / "b").mkdir()
    whole = fit(domain, small(), training, tmp_path / "b")
    assert (resumed.epochs, resumed.best_epoch, resumed.stopped) == (whole.epochs, whole.best_epoch, whole.stopped)
    assert same_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.long
def test_a_state_of_something_else_is_not_used(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    state = interrupted(domain, small(), quick(batch_size=64), tmp_path / "run")
    assert resume(domain, small(), quick(batch_size=64, learning_rate=1e-2), tmp_path / "run").resumed_at is None
    assert f"{state}: the state is not used" in (said := capsys.readouterr().err)
    assert "it belongs to a training with other training.learning_rate" in said

    interrupted(domain, small(), quick(batch_size=64), tmp_path / "run")
    moved = replace(domain, times=domain.times + (torch.arange(len(domain.times)) == 5))
    assert resume(moved, small(), quick(batch_size=64), tmp_path / "run").resumed_at is None
    assert "a training with other data\n" in capsys.readouterr().err

    interrupted(domain, small(), quick(batch_size=64), tmp_path / "run")
    record = json.loads((state / "state.json").read_text())
    record["identity"]["code"] = "0"
    (state / "state.json").write_text(json.dumps(record))
    assert resume(domain, small(), quick(batch_size=64), tmp_path / "run").resumed_at is None
    assert "a training with other code\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        "cut json",
        "flipped bit",
        *(pytest.param(damage, marks=pytest.mark.long) for damage in ("other json", "cut tensors", "no tensors")),
    ],
)
def test_a_damaged_state_counts_as_absent(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    training = quick(batch_size=64)
    state = interrupted(domain, small(), training, tmp_path / "run")
    (tensors,) = state.glob("*.safetensors")
    written = bytearray(tensors.read_bytes())
    if damage == "cut json":
        (state / "state.json").write_bytes((state / "state.json").read_bytes()[:-50])
    elif damage == "other json":
        (state / "state.json").write_text("[]")
    elif damage == "no tensors":
        tensors.unlink()
    else:
        written[-1000] ^= 1
        tensors.write_bytes(written[:-1] if damage == "cut tensors" else written)
    assert resume(domain, small(), training, tmp_path / "run").resumed_at is None
    assert "training starts again" in capsys.readouterr().err
    (tmp_path / "whole").mkdir()
    fit(domain, small(), training, tmp_path / "whole")
    assert same_files(tmp_path / "run", tmp_path / "whole")


def test_other_files_in_the_folder_are_left_alone(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    (state / "notes.txt").write_text("mine")
    resume(domain, small(), quick(), tmp_path / "run")
    assert [file.name for file in state.iterdir()] == ["notes.txt"]


def test_a_state_that_is_kept_spares_the_training_after_a_kill_before_publication(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    state, training = tmp_path / "state", quick(batch_size=16)
    for name in ("lost", "again"):
        (tmp_path / name).mkdir()
    whole = fit(domain, small(), training, tmp_path / "lost", state=state, state_seconds=0, keep_state=True)
    again = fit(domain, small(), training, tmp_path / "again", state=state, state_seconds=0, keep_state=True)
    assert again.resumed_at == whole.optimiser_steps
    assert same_files(tmp_path / "lost", tmp_path / "again")


def test_a_diverging_run_leaves_its_last_good_weights(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    """The learning rate is so large that weights overflow; what is kept loads and is finite."""
    from mmm4rec.checkpoint import load_model

    training = quick(epochs=50, learning_rate=1e18, patience=None)
    (tmp_path / "run").mkdir()
    with pytest.raises(
        ModelError, match=rf"(not finite|NaN).*last good weights, those of epoch \d+, are in .*{LAST_GOOD}"
    ):
        resume(domain, small(), training, tmp_path / "run")
    kept = tmp_path / "run" / "state" / LAST_GOOD
    model = load_model(kept, domain)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert "not finite" in json.loads((kept / "model.json").read_text())["stopped"]
    assert not (tmp_path / "run" / "model.safetensors").exists(), "a diverged training is no result"
