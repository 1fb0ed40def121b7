"""Several devices, as processes on the CPU: the same training, divided."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from mmm4rec import processes
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.examples import Examples, Part, Split
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.training.fit import Epoch, fit
from tests.conftest import REPOSITORY
from tests.forked import gone

pytestmark = pytest.mark.long

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


def test_torchrun_on_two_machines_gives_the_result_of_one(
    domain: DomainData, domain_folder: Path, tmp_path: Path, small: Config, quick: Training
) -> None:
    """Two agents of torchrun with one process each, as two machines have them; `strategy` is not set."""
    training = quick(batch_size=16, accumulate=5)
    one = trained(domain, small(), training, tmp_path / "one")
    plan = {"model": asdict(small()), "training": asdict(replace(training, devices=2))}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"),
        *("-m", "mmm4rec", "finetune", "--config", str(tmp_path / "plan.json"), "--out", str(tmp_path / "two")),
        *("--domain", "Toys", str(domain_folder), str(domain_folder / "text.parquet")),
        str(domain_folder / "image.parquet"),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "".join(said).count("2 x cpu") == 1, "told by the first process alone"
    assert_same_training(one, tmp_path / "two")


@pytest.mark.soak
def test_a_divided_training_of_which_a_process_is_killed_goes_on(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training
) -> None:
    training = quick(batch_size=16, accumulate=5, devices=2, epochs=10, patience=None)
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


@dataclass(frozen=True)
class FailsInOne(DomainData):
    """A domain that the second process cannot read: when it starts, or in the middle of an epoch."""

    @classmethod
    def of(cls, domain: DomainData) -> Self:
        return cls(**{field.name: getattr(domain, field.name) for field in fields(domain)})

    def examples(self, split: Split, length: int) -> Examples:
        found = super().examples(split, length)
        if os.environ.get("LOCAL_RANK") == "1" and split == "training":
            return self.fail(found)
        return found

    def fail(self, found: Examples) -> Examples:
        raise ModelError("the second process found no room")


class FailsInTheMiddle(FailsInOne):
    def fail(self, found: Examples) -> Examples:
        return ThreeSteps(**{field.name: getattr(found, field.name) for field in fields(found)})


class ThreeSteps(Examples):
    def steps(self, *given: Any, **named: Any) -> Iterator[list[Part]]:
        yield from islice(super().steps(*given, **named), 3)
        raise RuntimeError("the second process lost its disk")


@pytest.fixture
def watchdog() -> Iterator[None]:
    """Without it, processes that wait for each other would take half an hour to fail."""

    def bark(*_: object) -> None:
        raise TimeoutError("the processes wait for each other")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (FailsInOne, ModelError, "^the second process found no room$"),
        (FailsInTheMiddle, ProcessRaisedException, "Process 1 .*RuntimeError: the second process lost its disk"),
    ],
)
@pytest.mark.usefixtures("watchdog")
def test_an_error_in_one_process_ends_them_all(
    domain: DomainData,
    tmp_path: Path,
    small: Config,
    quick: Training,
    kind: type[FailsInOne],
    error: type[Exception],
    message: str,
) -> None:
    """The other one waits in a collective for what never comes."""
    before = multiprocessing.active_children()
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        trained(kind.of(domain), small(), quick(batch_size=16, accumulate=2, devices=2), tmp_path / "out")
    assert multiprocessing.active_children() == before
    assert not any((tmp_path / "out").iterdir())


class Stubborn(FailsInOne):
    """A domain whose processes do not end when they are asked to."""

    def examples(self, split: Split, length: int) -> Examples:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return DomainData.examples(self, split, length)


@pytest.mark.usefixtures("watchdog")
def test_a_caller_who_gives_up_ends_the_processes(
    domain: DomainData, tmp_path: Path, small: Config, quick: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the training, though they ignore SIGTERM, and none that was started meanwhile by somebody else."""
    monkeypatch.setattr(processes, "GRACE", 0.5)
    bystander = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,), daemon=True)

    def give_up(epoch: Epoch) -> None:
        bystander.start()
        raise KeyboardInterrupt

    before = multiprocessing.active_children()
    training = quick(batch_size=16, accumulate=2, devices=2, epochs=100_000, patience=None)
    with pytest.raises(KeyboardInterrupt):
        trained(Stubborn.of(domain), small(), training, tmp_path / "out", on_epoch=give_up)
    assert [one for one in multiprocessing.active_children() if one not in before] == [bystander]
    bystander.kill()


ENDLESS = """
import json, multiprocessing, sys
from pathlib import Path
from mmm4rec.processes import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    from mmm4rec.config import ModelConfig, TrainConfig
    from mmm4rec.data.reading import load_domain
    from mmm4rec.training.fit import fit

    plan = json.loads(sys.argv[1])
    folder = Path(plan["domain"])
    domain = load_domain(folder, folder / "text.parquet", folder / "image.parquet", "Toys")

    def told(epoch):
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)

    fit(domain, ModelConfig.from_dict(plan["model"]), TrainConfig.from_dict(plan["training"]), folder, on_epoch=told)
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_started_them(
    domain_folder: Path, tmp_path: Path, small: Config, quick: Training, number: signal.Signals
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    training = quick(batch_size=16, accumulate=2, devices=2, epochs=100_000, patience=None)
    plan = {"domain": str(domain_folder), "model": asdict(small()), "training": asdict(training)}
    command = [sys.executable, str(tmp_path / "endless.py"), json.dumps(plan)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        ranks = [int(pid) for pid in started.stdout.readline().split()]
        started.send_signal(number)
    assert len(ranks) == 2
    assert started.returncode == (128 + number if number == signal.SIGTERM else -number)
    latest = time.monotonic() + 60
    while not all(map(gone, ranks)):
        assert time.monotonic() < latest
        time.sleep(0.1)


def test_a_step_must_have_a_batch_for_every_device(quick: Training) -> None:
    with pytest.raises(ConfigError, match="accumulate is 1 but devices is 2"):
        quick(devices=2, accumulate=1)
