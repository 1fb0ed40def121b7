"""Training, checkpoints and transfer."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmm4rec.baselines import popularity
from mmm4rec.checkpoint import load_model
from mmm4rec.config import PRETRAINING, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.training.fit import Epoch, TrainSummary, fit, pretrain
from mmm4rec.training.log import EpochLog

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]


@pytest.fixture
def train(tmp_path: Path, small: Config, quick: Training) -> Callable[..., tuple[Path, TrainSummary]]:
    """A factory: train(domain, model changes, training changes, name=...) -> folder, summary."""

    def run(
        domain: DomainData, model: dict | None = None, training: dict | None = None, *, name: str = "out", **options
    ) -> tuple[Path, TrainSummary]:
        out = tmp_path / name
        out.mkdir()
        return out, fit(domain, small(**(model or {})), quick(**(training or {})), out, **options)

    return run


def test_epochs_are_logged_and_of_very_many_only_some(
    domain: DomainData, train, small: Config, quick: Training, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmm4rec")
    train(domain, training={"epochs": 2})
    number = r"\d+\.\d+"
    for line, wanted in zip(
        caplog.messages,
        (
            f"epoch 0 of 2: validation NDCG@10 {number}",
            rf"epoch 1 of 2: loss {number}, validation NDCG@10 {number}, at most \d+ s left",
            f"epoch 2 of 2: loss {number}, validation NDCG@10 {number}",
        ),
        strict=True,
    ):
        assert re.fullmatch(f"MMM4Rec on {domain.name}: {wanted}", line), line
    caplog.clear()
    log = EpochLog(small(), quick(epochs=5010), "toys")
    for number in range(5011):
        log(Epoch(number, number, number, 1.0 if number else None, None, 60.0 * number))
    assert caplog.messages[1] == "MMM4Rec on toys: epoch 51 of 5010: loss 1.0000, at most 3.4 days left"
    assert caplog.messages[-1] == "MMM4Rec on toys: epoch 5010 of 5010: loss 1.0000"
    assert len(caplog.messages) <= 101


def test_it_learns_and_beats_popularity(make_domain: Callable[..., DomainData], train) -> None:
    domain = make_domain(users=80, items=40, absent_images=(), seed=1)
    epochs: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    out, summary = train(
        domain,
        {"dropout_embedding": 0.0, "dropout_hidden": 0.0},
        {"epochs": 8, "learning_rate": 1e-2},
        on_epoch=epochs.append,
        progress=lambda *step: steps.append(step),
        data_versions={"core/sequences": "v1"},
    )
    model = load_model(out, domain)
    assert evaluate(model, domain, "test").value("NDCG@10") > 2 * popularity.evaluate(domain, "test").value("NDCG@10")
    assert evaluate(model, domain, "validation").values == summary.validation

    history = pq.read_table(out / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(summary.epochs + 1)) == [e.epoch for e in epochs]
    assert history[0]["loss"] is None
    assert history[-1]["loss"] < history[1]["loss"]
    assert summary.best_epoch == max(history, key=lambda row: row["ndcg_10"])["epoch"]
    assert history[summary.best_epoch]["optimiser_steps"] == summary.optimiser_steps_to_best
    assert steps[-1] == (len(steps), len(steps))
    assert summary.examples_per_epoch == len(domain.examples("training", 6))
    assert summary.examples_to_best == summary.best_epoch * summary.examples_per_epoch

    record = json.loads((out / "model.json").read_text())
    assert record["data_versions"] == {"core/sequences": "v1"}
    assert record["model"]["hidden"] == 16
    assert record["validation"] == summary.validation
    assert record["transfer"] is None
    assert pq.read_table(out / "items.parquet")["item_id"].to_pylist() == domain.item_ids


def test_two_runs_write_the_same_bytes(domain: DomainData, train) -> None:
    first, _ = train(domain, name="a")
    torch.manual_seed(123)
    state = torch.get_rng_state()
    second, _ = train(domain, name="b")
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is left alone"
    third, _ = train(domain, None, {"seed": 1}, name="c")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["history.parquet", "items.parquet", "model.json", "model.safetensors"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert (first / "model.safetensors").read_bytes() != (third / "model.safetensors").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("fusion", ["static", "dynamic_instance"])
def test_pretraining_on_two_threads_writes_the_same_bytes(
    make_domain: Callable[..., DomainData], tmp_path: Path, fusion: str
) -> None:
    """Labels repeat in a batch; on several threads their gradients must still be added in one order."""
    domain = make_domain(users=600, items=20)
    model = ModelConfig(hidden=64, inner=64, state=8, head_width=16, length=8, fusion=fusion)
    training = replace(PRETRAINING, epochs=2, batch_size=512, accumulate=1, learning_rate=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        written = []
        for attempt in range(4):
            out = tmp_path / str(attempt)
            out.mkdir()
            pretrain([domain], model, training, out)
            written.append((out / "model.safetensors").read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert len(set(written)) == 1


def test_gradients_of_a_step_are_summed(
    domain: DomainData, train, small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[int, torch.Tensor]] = []
    step = torch.optim.NAdam.step

    def spy(self, *args, **kwargs):
        steps.append({p.numel(): p.grad.clone() for p in self.param_groups[0]["params"]})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.NAdam, "step", spy)
    still = {"dropout_embedding": 0.0, "dropout_hidden": 0.0, "dropout_time": 0.0}
    _, summary = train(domain, still, {"epochs": 1, "batch_size": 16, "accumulate": 3})
    assert summary.optimiser_steps == len(steps) == -(-summary.examples_per_epoch // 16 // 3)

    torch.manual_seed(2020)
    model = MMM4Rec(small(**still), domain)
    examples = domain.examples("training", 6)
    parts = next(examples.steps(16, 3, seed=2020 * 1_000_003 + 1))
    step_examples = torch.cat([part.chosen for part in parts])
    assert len(step_examples) == 48
    (3 * model(examples.batch(step_examples, 6))).backward()  # three batches, every example of the same weight
    for parameter in model.parameters():
        assert parameter.grad is not None
    expected = {p.numel(): p.grad for p in model.parameters()}
    for size, gradient in steps[0].items():
        torch.testing.assert_close(gradient, expected[size])


def test_training_stops_when_patience_runs_out(domain: DomainData, train) -> None:
    out, summary = train(domain, None, {"epochs": 50, "patience": 2, "learning_rate": 1e-9, "metric": "HR@20"})
    assert summary.epochs < 50
    assert summary.epochs - summary.best_epoch == 2
    assert summary.stopped == "no better HR@20 in 2 validations"
    history = pq.read_table(out / "history.parquet").to_pylist()
    assert summary.validation["hr_20"] == max(row["hr_20"] for row in history)


def test_validation_is_optional(domain: DomainData, train) -> None:
    _, summary = train(domain, None, {"validate_every": 0, "keep": "last", "patience": None})
    assert summary.best_epoch == summary.epochs == 2
    assert summary.validation == {}
    _, summary = train(domain, None, {"validate_every": 2, "epochs": 3, "keep": "last"}, name="sparse")
    assert summary.best_epoch == 3
    assert summary.validation


def test_bf16_trains(domain: DomainData, train) -> None:
    _, summary = train(domain, None, {"precision": "bf16-mixed", "epochs": 1})
    assert summary.validation["ndcg_10"] > 0


def test_pretraining_transfers_to_another_domain(
    make_domain: Callable[..., DomainData], train, small: Config, quick: Training, tmp_path: Path
) -> None:
    sources = [make_domain("A", items=20, seed=1), make_domain("B", items=12, seed=2)]
    out = tmp_path / "pretrained"
    out.mkdir()
    summary = pretrain(sources, small(), quick(loss="in_batch", epochs=3), out)
    assert not (out / "items.parquet").exists(), "no per-item weights in the default mode"
    target = make_domain("T", items=18, seed=3)
    load_model(out, target)  # without per-item weights it serves any domain

    _, tuned = train(target, None, {"epochs": 1}, name="tuned", init=out)
    assert tuned.transfer is not None
    assert "layers.0.branches.inputs.weight" in tuned.transfer.taken
    assert list(tuned.transfer.fresh) == ["image_item", "text_item"]
    assert tuned.transfer.left_out == {}
    assert len(tuned.transfer.taken) == len(load_file(out / "model.safetensors"))
    record = json.loads((tmp_path / "tuned" / "model.json").read_text())
    assert record["transfer"]["taken"] == tuned.transfer.taken
    assert summary.parameters < tuned.parameters


def test_what_a_transfer_leaves_out_is_listed(
    make_domain: Callable[..., DomainData], train, small: Config, quick: Training, tmp_path: Path
) -> None:
    """The published recipe: two layers and item vectors in pre-training, one layer in fine-tuning."""
    out = tmp_path / "pretrained"
    out.mkdir()
    config = small(compat="published", layers=2)
    pretrain([make_domain("A", seed=1)], config, quick(loss="in_batch", epochs=1), out)
    assert (out / "items.parquet").exists()
    target = make_domain("T", items=18, seed=3)
    _, tuned = train(target, {"compat": "published"}, {"epochs": 1}, init=out / "model.safetensors")
    assert tuned.transfer is not None
    reasons = set(tuned.transfer.left_out.values())
    assert reasons == {"one row per item: other items here", "the model has 1 of its 2 layers"}
    stored = load_file(out / "model.safetensors")
    assert set(tuned.transfer.taken) | set(tuned.transfer.left_out) == set(stored)
    # The weights are really taken: a step of zero length leaves them as they were.
    frozen, _ = train(target, {"compat": "published"}, {"epochs": 1, "learning_rate": 1e-12}, name="frozen", init=out)
    name = "layers.0.cross.query.weight"
    torch.testing.assert_close(load_file(frozen / "model.safetensors")[name], stored[name])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"length": 7}, "trained with length 6, but the model has 7.*set length to 6"),
        ({"layers": 2}, "1 layers, but the model has 2"),
        ({"hidden": 32}, "settings of the checkpoint that differ: hidden 16, not 32"),
        ({"use_time": False}, "has no place in the model"),
        ({"fusion": "dynamic_shared"}, "it lacks fusion"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(domain: DomainData, train, model: dict, message: str) -> None:
    out, _ = train(domain, None, {"epochs": 1}, name="init")
    with pytest.raises(ModelError, match=message):
        train(domain, model, init=out)


def test_a_checkpoint_serves_only_what_it_was_trained_for(
    make_domain: Callable[..., DomainData], train, tmp_path: Path
) -> None:
    domain = make_domain("A")
    out, _ = train(domain, None, {"epochs": 1})
    with pytest.raises(ModelError, match="per-item weights are for 15 items, which are not the"):
        load_model(out, make_domain("B", items=14))
    with pytest.raises(ModelError, match="trained on text vectors of width 6, but C has width 9"):
        load_model(out, make_domain("C", widths=(9, 5)))
    with pytest.raises(ModelError, match="trained on image vectors of width 5, but D has width 8"):
        train(make_domain("D", widths=(6, 8)), name="d", init=out)
    with pytest.raises(ModelError, match="there is no checkpoint"):
        load_model(tmp_path / "nowhere", domain)


def test_a_damaged_checkpoint_is_refused(domain: DomainData, train) -> None:
    out, _ = train(domain, None, {"epochs": 1})
    file = out / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(out, domain)
    file.write_bytes(whole)
    tensors = load_file(file)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="not a checkpoint of this package: it lacks the metadata"):
        load_model(out, domain)
    save_file(tensors, file, {"mmm4rec": json.dumps({"format": "mmm4rec 0"})})
    with pytest.raises(ModelError, match="its format is 'mmm4rec 0'"):
        load_model(out, domain)
    file.write_bytes(whole)
    (out / "items.parquet").unlink()
    with pytest.raises(ModelError, match=r"items\.parquet"):
        load_model(out, domain)


def test_a_diverging_loss_names_epoch_and_batch(domain: DomainData, train) -> None:
    huge = Features(torch.full_like(domain.text.vectors, 3e38), domain.text.present)
    with pytest.raises(ModelError, match=r"not finite at epoch 1, batch 1|score is NaN"):
        train(replace(domain, text=huge))
    with pytest.raises(ModelError, match=r"not finite at epoch 1, batch 1\b"):
        train(replace(domain, text=huge), None, {"validate_every": 0, "keep": "last"}, name="blind")


def test_a_domain_too_small_is_refused(make_domain: Callable[..., DomainData], train) -> None:
    domain = make_domain()
    short = replace(
        domain,
        offsets=torch.arange(domain.user_count + 1) * 3,
        items=domain.items[: domain.user_count * 3],
        times=domain.times[: domain.user_count * 3],
        training=torch.ones(domain.user_count, dtype=torch.int64),
        validation=torch.ones(domain.user_count, dtype=torch.int64),
    )
    with pytest.raises(ModelError, match="no training example"):
        train(short)


def test_cuda_must_exist(domain: DomainData, train) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match="no GPU is available"):
        train(domain, None, {"device": "cuda"})
