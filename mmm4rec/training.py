"""Training: one trainer for pre-training (several domains merged), from scratch, and fine-tuning from a
checkpoint.

NAdam over seeded, length-bucketed batches; gradients of `accumulate` batches summed per step; validation by
full ranking; early stopping. The files written depend on inputs, config and machine only: seconds are
returned, not written. Lightning Fabric (device, precision) is imported inside `fit`, so that the package
imports without it.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmm4rec import checkpoint
from mmm4rec.checkpoint import Transfer
from mmm4rec.compat import rules
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data import DomainData, merge_domains
from mmm4rec.errors import ModelError
from mmm4rec.evaluation import Metrics, Outcome, evaluate
from mmm4rec.model import MMM4Rec
from mmm4rec.ssd import choose
from mmm4rec.tables import write_table

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Epoch:
    """A row of `history`."""

    epoch: int
    optimiser_steps: int
    examples: int
    loss: float | None
    validation: Metrics | None

    def row(self) -> dict[str, object]:
        """The row in the layout of `history`."""
        flat = {} if self.validation is None else self.validation.flat()
        head = {name: getattr(self, name) for name in ("epoch", "optimiser_steps", "examples", "loss")}
        return {**head, **flat}


@dataclass(frozen=True)
class TrainSummary:
    """What a training did."""

    best_epoch: int
    """Epoch of the weights written; 0 is before training."""
    epochs: int
    optimiser_steps: int
    optimiser_steps_to_best: int
    examples_per_epoch: int
    examples_to_best: int
    parameters: int
    validation: dict[str, float]
    """Validation metrics of the weights written (hr_10, ndcg_10, ...); empty where never validated."""
    stopped: str
    transfer: Transfer | None
    ssd: str
    """The form of the SSD and why."""
    device: str
    seconds: float
    """Wall-clock time of training and validation."""
    examples_per_second: float
    """Training examples per second of training, validation not counted."""

    def outcome(self, model: str) -> Outcome:
        """The row of `reports/metrics/outcomes` under the name `model`."""
        return Outcome(
            model=model,
            parameters=self.parameters,
            best_epoch=self.best_epoch,
            epochs=self.epochs,
            optimiser_steps_to_best=self.optimiser_steps_to_best,
            examples_to_best=self.examples_to_best,
        )


def pretrain(
    domains: Sequence[DomainData],
    model_config: ModelConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    data_versions: Mapping[str, str] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train on several domains merged (ids prefixed by domain); arguments and errors as `fit`.

    Default mode trains without per-item vectors: a transfer would throw them away.
    """
    if not rules(model_config.compat).item_vectors_in_pretraining:
        model_config = replace(model_config, with_id=False)
    merged = merge_domains(domains)
    return fit(
        merged,
        model_config,
        train_config,
        out,
        data_versions=data_versions,
        on_epoch=on_epoch,
        progress=progress,
    )


def fit(
    domain: DomainData,
    model_config: ModelConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    init: Path | None = None,
    data_versions: Mapping[str, str] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train on `domain` and write the model into `out`.

    Files: `model.safetensors`, `items.parquet` (where there are per-item weights), `history.parquet` (a row
    an epoch, epoch 0 before training) and `model.json` (config, data versions, transfer list, metrics).

    Args:
        init: a checkpoint to start from; see `checkpoint.transfer` for what is taken. None starts from
            scratch.
        data_versions: versions of the inputs, kept in `model.json`.
        on_epoch: called after every epoch (and before the first).
        progress: called with (batches done, batches at the epoch cap).

    Raises:
        ModelError: no training example, an empty validation set, a checkpoint that does not fit, a NaN loss.
    """
    started = time.perf_counter()
    fabric = _fabric(train_config)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(train_config.seed)
        model = MMM4Rec(model_config, domain, train_config.ssd_form)
        moved = None if init is None else checkpoint.transfer(checkpoint.load(init), model, domain)
        run = _Run(fabric, model, domain, train_config, on_epoch, progress)
        run.train()
    checkpoint.save(model, domain, run.weights, out)
    write_table([epoch.row() for epoch in run.history], "models/finetuned/history", out / "history.parquet")
    best, last = run.best, run.history[-1]
    metrics = {} if best.validation is None else best.validation.flat()
    record = {
        "model": asdict(model_config),
        "training": asdict(train_config),
        "data_versions": dict(data_versions or {}),
        "transfer": None if moved is None else asdict(moved),
        "best_epoch": best.epoch,
        "epochs": last.epoch,
        "optimiser_steps_to_best": best.optimiser_steps,
        "stopped": run.stopped,
        "validation": metrics,
    }
    (out / "model.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    choice = choose(model_config.length, train_config.ssd_form)
    return TrainSummary(
        best_epoch=best.epoch,
        epochs=last.epoch,
        optimiser_steps=last.optimiser_steps,
        optimiser_steps_to_best=best.optimiser_steps,
        examples_per_epoch=len(run.examples),
        examples_to_best=best.examples,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        validation=metrics,
        stopped=run.stopped,
        transfer=moved,
        ssd=f"{choice.form}: {choice.reason}",
        device=str(fabric.device),
        seconds=time.perf_counter() - started,
        examples_per_second=last.examples / max(run.training_seconds, 1e-9),
    )


class _Run:
    """The state of one training."""

    def __init__(
        self,
        fabric: "Fabric",
        model: MMM4Rec,
        domain: DomainData,
        config: TrainConfig,
        on_epoch: Callable[[Epoch], None] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.fabric, self.model, self.domain, self.config = fabric, model, domain, config
        self.on_epoch, self.progress = on_epoch, progress
        self.examples = domain.examples("training", model.config.length)
        if not len(self.examples):
            raise ModelError(
                f"{domain.name}: no training example; users need 4 interactions: lower k, or give more data"
            )
        if config.validate_every and not len(domain.examples("validation", model.config.length)):
            raise ModelError(
                f"{domain.name}: an empty validation set; users need 3 interactions: lower k, or do not validate"
            )
        if len(self.examples) == 1 and config.loss == "in_batch":
            raise ModelError(f"{domain.name}: one training example has no in-batch negatives; set loss to 'full'")
        self.batches = math.ceil(len(self.examples) / config.batch_size)
        optimiser = torch.optim.NAdam(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.wrapped, self.optimiser = fabric.setup(model, optimiser)
        self.examples = self.examples.to(fabric.device)
        self.steps = self.seen = 0
        self.training_seconds = 0.0
        self.history: list[Epoch] = []
        self.stopped = "epoch cap"

    def train(self) -> None:
        """All epochs, up to the cap or until patience runs out."""
        self._record(0, None)
        for number in range(1, self.config.epochs + 1):
            self._record(number, self._epoch(number))
            if self._patience_is_out():
                self.stopped = f"no better {self.config.metric} in {self.config.patience} validations"
                break
        if self.config.keep == "last":
            self._keep(self.history[-1])

    def _epoch(self, number: int) -> float:
        """One pass over the examples; the mean loss."""
        started = time.perf_counter()
        self.wrapped.train()
        in_batch = self.config.loss == "in_batch"
        leaks = self.model.rules.label_time_is_input
        losses: list[Tensor] = []
        total, first = 0.0, 0
        order = self.examples.shuffled(self.config.batch_size, seed=self.config.seed * 1_000_003 + number)
        for done, (index, longest) in enumerate(order, start=1):
            loss = self.wrapped(self.examples.batch(index, longest, leaks), in_batch)
            self.fabric.backward(loss)
            losses.append(loss.detach() * len(index))
            if done % self.config.accumulate == 0 or done == self.batches:
                total += self._checked(torch.stack(losses), number, first)
                losses, first = [], done
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
                self.steps += 1
            if self.progress:
                self.progress((number - 1) * self.batches + done, self.config.epochs * self.batches)
        self.seen += len(self.examples)
        self.training_seconds += time.perf_counter() - started
        return total / len(self.examples)

    def _checked(self, losses: Tensor, epoch: int, first: int) -> float:
        """The sum of the losses of one step, looked at once a step: every look waits for the device."""
        finite = losses.isfinite()
        if not finite.all():
            batch = first + 1 + int((~finite).nonzero()[0])
            raise ModelError(
                f"{self.domain.name}: the loss is not finite at epoch {epoch}, batch {batch}; "
                "lower learning_rate, or look for extreme values in the features"
            )
        return float(losses.sum())

    def _record(self, number: int, loss: float | None) -> None:
        """Validate where it is due, append to the history, and keep the weights if they are the best."""
        every = self.config.validate_every
        due = every and (number % every == 0 or number == self.config.epochs)
        validation = evaluate(self.model, self.domain, "validation") if due else None
        epoch = Epoch(number, self.steps, self.seen, loss, validation)
        self.history.append(epoch)
        if self.config.keep == "best" and validation is not None:
            metric = self.config.metric
            best = self.history[0] if number == 0 else self.best
            if number == 0 or validation.value(metric) > _value(best, metric):
                self._keep(epoch)
        if self.on_epoch:
            self.on_epoch(epoch)

    def _keep(self, epoch: Epoch) -> None:
        self.best = epoch
        self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def _patience_is_out(self) -> bool:
        validated = [epoch for epoch in self.history if epoch.validation is not None]
        if self.config.patience is None or not validated:
            return False
        values = [_value(epoch, self.config.metric) for epoch in validated]
        return len(values) - 1 - values.index(max(values)) >= self.config.patience


def _value(epoch: Epoch, metric: str) -> float:
    return -math.inf if epoch.validation is None else epoch.validation.value(metric)


def _fabric(config: TrainConfig) -> "Fabric":
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ModelError(f"training needs lightning-fabric ({error}): pip install lightning-fabric") from None
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device is 'cuda' but no GPU is available: set device to 'auto' or 'cpu'")
    fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
    fabric.launch()
    return fabric
