"""Training: one trainer for pre-training (several domains merged), from scratch, and fine-tuning from a
checkpoint; for MMM4Rec and for every other model of `mmm4rec.registry`, which the type of its config names.

NAdam over seeded, length-bucketed batches; gradients of `accumulate` batches summed per step; validation by
full ranking; early stopping. The files written depend on inputs, config and machine only: seconds are
returned, not written. Lightning Fabric (devices, precision, strategy, loggers) is imported inside `fit`, so
that the package imports without it.

**Random numbers.** The order of an epoch follows from (seed, epoch), the dropout of a part of a step from (seed,
epoch, step, part). So a run stopped anywhere can go on with no random state to restore, and a part is the same
whichever device computes it.

**Several devices.** The parts of an optimiser step (`gradient`) are dealt out to the devices in turn, and
their gradients summed: the number of devices says who computes, not what. `batch_size` is one batch on one
device. The negatives of the in-batch loss are the labels of that batch, never those of the batches on other
devices. Gradients are exchanged once a step. The first device validates and writes; the others wait for it. An error
in one process ends all.

**Resuming.** See `resume`; `fit(state=...)` saves between two optimiser steps.
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes

from mmm4rec import checkpoint
from mmm4rec.checkpoint import Transfer
from mmm4rec.config import ModelConfig, RecommenderConfig, TrainConfig
from mmm4rec.data import DomainData, Part, merge_domains, tokens_on
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.ranking import Metrics, evaluate, first_near_best
from mmm4rec.model.compat import rules
from mmm4rec.model.kernels import Choice
from mmm4rec.model.recommender import Recommender
from mmm4rec.model.ssd import choose
from mmm4rec.processes import default_signals, end, end_with_parent
from mmm4rec.registry import make, model_of, stated
from mmm4rec.tables import write_table
from mmm4rec.training.gradient import accumulate
from mmm4rec.training.resume import StateFolder, identity

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from lightning_fabric import Fabric

STATE_SECONDS = 30.0
"""Time from one save of the state to the next: about what a kill costs."""
LAST_GOOD = "last-good"
"""Folder, in the state's (else in the output's), for the last good weights of a training that diverged."""


@dataclass(frozen=True)
class Epoch:
    """A row of `history`."""

    epoch: int
    optimiser_steps: int
    examples: int
    loss: float | None
    validation: Metrics | None
    seconds: float = 0.0
    """Wall-clock time of the training up to the end of this epoch, validation included."""

    def row(self) -> dict[str, object]:
        """The row in the layout of `history`."""
        validation = {} if self.validation is None else self.validation.values
        head = {name: getattr(self, name) for name in ("epoch", "optimiser_steps", "examples", "loss")}
        return {**head, **validation}


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
    seconds_to_best: float
    epochs_to_95: int | None
    """Epochs to 95% of the best value of the metric, whatever epoch is kept; None where never validated."""
    optimiser_steps_to_95: int | None
    seconds_to_95: float | None
    parameters: int
    validation: dict[str, float]
    """Validation metrics of the weights written (hr_10, ndcg_10, ...); empty where never validated."""
    stopped: str
    transfer: Transfer | None
    ssd: str
    """The form of the SSD and why; "none" for a model without."""
    device: str
    seconds: float
    """Wall-clock time of training and validation, over all the runs that it took."""
    examples_per_second: float
    """Training examples per second of training, validation not counted."""
    resumed_at: int | None
    """Optimiser steps already done when this run took over an unfinished one; None where it began afresh."""


def pretrain(
    domains: Sequence[DomainData],
    model_config: ModelConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    data_versions: Mapping[str, str] | None = None,
    state: Path | None = None,
    state_seconds: float = STATE_SECONDS,
    keep_state: bool = False,
    logs: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train on several domains merged (ids prefixed by domain); arguments and errors as `fit`.

    Default mode trains without per-item vectors: a transfer would throw them away.
    """
    if not rules(model_config.compat).item_vectors_in_pretraining:
        model_config = replace(model_config, with_id=False)
    return fit(
        merge_domains(domains),
        model_config,
        train_config,
        out,
        data_versions=data_versions,
        state=state,
        state_seconds=state_seconds,
        keep_state=keep_state,
        logs=logs,
        on_epoch=on_epoch,
        progress=progress,
    )


@dataclass(frozen=True)
class Adopted:
    """A model trained elsewhere."""

    parameters: int
    items: int
    """N of the per-item weights; 0 where there are none."""
    model: dict[str, Any]
    """Its config, and its kind where it is no MMM4Rec."""


def adopt(source: Path, out: Path) -> Adopted:
    """Write the checkpoint `source` into `out` as a model that has not been trained here: the files of `fit`, with a
    history that ends before the first epoch.

    Raises:
        ModelError: as `checkpoint.load`.
    """
    found = checkpoint.load(source)
    item_ids = found.item_ids or []
    checkpoint.write(found.config, found.weights, found.text, found.image, item_ids, out)
    start = Epoch(0, 0, 0, None, None)
    _write_record(out, [start], start, model=stated(found.config), training=None, stopped="trained elsewhere")
    return Adopted(sum(weight.numel() for weight in found.weights.values()), len(item_ids), stated(found.config))


def fit(
    domain: DomainData,
    model_config: RecommenderConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    init: Path | None = None,
    data_versions: Mapping[str, str] | None = None,
    state: Path | None = None,
    state_seconds: float = STATE_SECONDS,
    keep_state: bool = False,
    logs: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train the model that `model_config` describes on `domain`, and write it into `out`.

    Files: `model.safetensors`, `items.parquet` (where there are per-item weights), `history.parquet` (a row
    an epoch, epoch 0 before training) and `model.json` (config, data versions, transfer list, metrics).

    Args:
        init: a checkpoint to start from; see `checkpoint.transfer` for what is taken. None starts from
            scratch.
        data_versions: versions of the inputs, kept in `model.json`.
        state: folder for the state of the unfinished training. A run that finds one there of the same config,
            data and code goes on from it and ends with the same weights as an unbroken run (on a CPU to the
            byte); it is removed at the end. None: an interrupted training is lost.
        state_seconds: seconds from one save of the state to the next; 0 saves after every optimiser step.
        keep_state: leave the state at the end, for a caller who still has to put the files in their place: killed
            before that, it would lose the training.
        logs: folder for the files of `train_config.loggers`.
        on_epoch: called after every epoch (and before the first) of this run.
        progress: called with (optimiser steps done, those at the epoch cap).

    Raises:
        ConfigError: a form of the SSD asked for by `train_config.ssd_form` that cannot run here.
        ModelError: no training example, an empty validation set, a checkpoint that does not fit, a device or
            logger that is not there. Or a loss, score or weight that is not finite: the last good weights are
            then in the folder `last-good` of `state` (without one: of `out`), as a whole checkpoint.
    """
    fabric = _fabric(train_config, logs)
    # Before anything is read or built: a form that was asked for and cannot run here.
    dtype = torch.bfloat16 if train_config.precision == "bf16-mixed" else torch.float32
    form = None
    if model_of(model_config).has_state_space:
        form = choose(model_config.length, train_config.ssd_form, fabric.device, dtype)
    known = None if state is None else identity(domain, model_config, train_config, init)
    plan = _Plan(
        domain, model_config, train_config, out, init, dict(data_versions or {}), state, state_seconds, keep_state,
        known, form, logs,
    )  # fmt: skip

    def tell(kind: str, value: Any) -> None:
        if kind == "epoch" and on_epoch:
            on_epoch(value)
        elif kind == "progress" and progress:
            progress(*value)

    if train_config.devices > 1 and train_config.strategy != "ddp":
        return _spawn(plan, tell)
    summary: TrainSummary = fabric.launch(partial(_work, plan, tell))
    return summary


@dataclass(frozen=True)
class _Plan:
    """The arguments of `fit` that go to every process."""

    domain: DomainData
    model_config: RecommenderConfig
    train_config: TrainConfig
    out: Path
    init: Path | None
    data_versions: dict[str, str]
    state: Path | None
    state_seconds: float
    keep_state: bool
    identity: dict[str, Any] | None
    ssd: Choice | None
    logs: Path | None


def _spawn(plan: _Plan, tell: Callable[[str, Any], None]) -> TrainSummary:
    """`_work` in a new process per device; what they tell comes through a pipe each.

    An error in one of them, or in `tell`, ends them all, since the others may wait for what it will never send.
    """
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    count = plan.train_config.devices
    pipes = [get_context("spawn").Pipe(duplex=False) for _ in range(count)]
    receivers = [receiver for receiver, _ in pipes]
    senders = [sender for _, sender in pipes]
    results: dict[str, Any] = {}
    ended: ProcessException | None = None

    def hear(ready: Sequence[object]) -> None:
        for receiver in [one for one in receivers if one in ready]:
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):  # of processes that have ended, or were killed while they spoke
                receivers.remove(receiver)
                continue
            if kind in ("summary", "error"):
                results.setdefault(kind, value)
            else:
                tell(kind, value)

    # Fabric could start the processes, but would not say which they are.
    port = LightningEnvironment().main_port
    started = start_processes(_worker, (plan, senders, port), count, join=False)  # type: ignore[no-untyped-call]
    try:
        for sender in senders:
            sender.close()  # now the pipes end when the processes do
        while not started.join(timeout=0):
            hear(wait([*receivers, *started.sentinels]))
    except ProcessException as error:
        ended = error
    finally:
        end(started.processes)
    while ready := wait(receivers, timeout=0):
        hear(ready)  # what they said last
    cause = results.get("error", ended)
    if cause is not None:
        raise cause
    summary: TrainSummary = results["summary"]
    return summary


def _worker(rank: int, plan: _Plan, senders: Sequence["Connection"], port: int) -> None:
    """`_work` in a process that `_spawn` started."""
    default_signals()
    end_with_parent()
    sender = senders[rank]

    def tell(kind: str, value: Any) -> None:
        sender.send((kind, value))

    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    fabric = _fabric(plan.train_config, plan.logs)
    try:
        summary = fabric.launch(partial(_work, plan, tell))
    except ModelError as error:
        tell("error", error)
        raise  # the end of one is the end of all
    if fabric.is_global_zero:
        tell("summary", summary)
    fabric.barrier()  # or one would end while another still speaks to it


def _work(plan: _Plan, tell: Callable[[str, Any], None], fabric: "Fabric") -> TrainSummary:
    """The whole training in one process; the first of several writes."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(plan.train_config.seed)
        model = make(plan.model_config, plan.domain, plan.train_config.ssd_form)
        moved = None if plan.init is None else checkpoint.transfer(checkpoint.load(plan.init), model, plan.domain)
        run = _Run(fabric, model, plan, tell)
        try:
            run.train()
        except _DivergedError as error:
            folder = (plan.state or plan.out) / LAST_GOOD
            if run.best is None:
                raise ModelError(str(error)) from None
            if fabric.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
                run.stopped = str(error)
                _write(plan, run, moved, folder)
            fabric.barrier()  # the end of one is the end of all, and the first is still writing
            raise ModelError(
                f"{error}. The last good weights, those of epoch {run.best.epoch}, are in {folder}"
            ) from None
    summary = _summary(plan, run, moved)
    if fabric.is_global_zero:
        _write(plan, run, moved, plan.out)
        if run.state and not plan.keep_state:
            run.state.remove()
        for logger in fabric.loggers:
            logger.finalize("success")
    fabric.barrier()
    return summary


def _write(plan: _Plan, run: "_Run", moved: Transfer | None, out: Path) -> None:
    """The files of a model."""
    checkpoint.save(run.model, plan.domain, run.weights, out)
    _write_record(
        out,
        run.history,
        run.kept,
        model=stated(plan.model_config),
        training=asdict(plan.train_config),
        data_versions=plan.data_versions,
        transfer=None if moved is None else asdict(moved),
        stopped=run.stopped,
    )


def _write_record(out: Path, history: Sequence[Epoch], best: Epoch, **said: object) -> None:
    """`history.parquet` and `model.json`."""
    write_table([epoch.row() for epoch in history], "models/finetuned/history", out / "history.parquet")
    record = {
        **said,
        "best_epoch": best.epoch,
        "epochs": history[-1].epoch,
        "optimiser_steps_to_best": best.optimiser_steps,
        "validation": {} if best.validation is None else best.validation.values,
    }
    (out / "model.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _summary(plan: _Plan, run: "_Run", moved: Transfer | None) -> TrainSummary:
    best, last = run.kept, run.history[-1]
    metric = plan.train_config.metric
    place = first_near_best([e.validation.value(metric) if e.validation else None for e in run.history])
    near = None if place is None else run.history[place]
    count, device = run.fabric.world_size, str(run.fabric.device)
    return TrainSummary(
        best_epoch=best.epoch,
        epochs=last.epoch,
        optimiser_steps=last.optimiser_steps,
        optimiser_steps_to_best=best.optimiser_steps,
        examples_per_epoch=len(run.examples),
        examples_to_best=best.examples,
        seconds_to_best=best.seconds,
        epochs_to_95=None if near is None else near.epoch,
        optimiser_steps_to_95=None if near is None else near.optimiser_steps,
        seconds_to_95=None if near is None else near.seconds,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        validation={} if best.validation is None else best.validation.values,
        stopped=run.stopped,
        transfer=moved,
        ssd="none" if plan.ssd is None else f"{plan.ssd.form}: {plan.ssd.reason}",
        device=device if count == 1 else f"{count} x {device.split(':')[0]}",
        seconds=run.seconds,
        examples_per_second=last.examples / max(run.training_seconds, 1e-9),
        resumed_at=run.resumed_at,
    )


class _DivergedError(ModelError):
    """A loss, a score or a weight is not finite."""


class _Run:
    """The state of one training in one process."""

    def __init__(self, fabric: "Fabric", model: Recommender, plan: _Plan, tell: Callable[[str, Any], None]) -> None:
        domain, config = plan.domain, plan.train_config
        self.fabric, self.model, self.domain, self.config = fabric, model, domain, config
        self.tell = tell if fabric.is_global_zero else _silent
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
        self.steps_an_epoch = math.ceil(self.batches / config.accumulate)
        self.optimiser = torch.optim.NAdam(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.wrapped, self.stepper = fabric.setup(model, self.optimiser)
        self.examples = self.examples.to(fabric.device)
        self.started = time.perf_counter()
        self.training_seconds = 0.0
        # Where the run stands: `done` steps into the epoch after the last in history, their losses in `total`.
        self.steps = self.seen = self.done = 0
        self.total = 0.0
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.weights: dict[str, Tensor] = {}
        self.stopped = ""
        self.resumed_at: int | None = None
        self.state = None if plan.state is None or plan.identity is None else StateFolder(plan.state, plan.identity)
        self.state_seconds = plan.state_seconds
        if self.state and (found := self.state.load()):
            self._restore(*found)
        self.saved = time.perf_counter()
        fabric.barrier()  # nobody saves before everybody has read

    @property
    def kept(self) -> Epoch:
        """The epoch of the weights to write."""
        if self.best is None:
            raise ModelError("no epoch has been run yet, so there are no weights to write")
        return self.best

    @property
    def seconds(self) -> float:
        """Wall-clock time so far, with that of the runs before this one."""
        return time.perf_counter() - self.started

    def train(self) -> None:
        """All epochs that are left, up to the cap or until patience runs out."""
        for epoch in self.history:
            self._log(epoch)
        if not self.history:
            self._record(0, None)
        while not self.stopped:
            number = self.history[-1].epoch + 1
            self._record(number, self._epoch(number))

    def _epoch(self, number: int) -> float:
        """What is left of a pass over the examples; the mean loss of all of it."""
        started = time.perf_counter()
        self.wrapped.train()
        # A loss that looks across its batch needs it whole.
        tokens = None if self.config.loss == "in_batch" else tokens_on(self.fabric.device)
        seed = self.config.seed * 1_000_003 + number
        order = self.examples.steps(self.config.batch_size, self.config.accumulate, seed, tokens)
        for parts in islice(order, self.done, None):
            self.total += self._checked(self._gradients(number, parts), number)
            self.stepper.step()
            self.stepper.zero_grad(set_to_none=True)
            self.steps += 1
            self.done += 1
            whole = self.steps_an_epoch
            self.tell("progress", ((number - 1) * whole + self.done, self.config.epochs * whole))
            if self.done < whole:
                self.training_seconds += time.perf_counter() - started
                self._save_if_due()
                started = time.perf_counter()
        mean = self.total / len(self.examples)
        self.seen += len(self.examples)
        self.done, self.total = 0, 0.0
        self.training_seconds += time.perf_counter() - started
        return mean

    def _gradients(self, number: int, parts: list[Part]) -> Tensor:
        """Sum the gradients of the parts of one optimiser step; the loss of each times its examples [n].

        Part i belongs to device i modulo their number.
        """
        rank, count = self.fabric.global_rank, self.fabric.world_size
        places = list(range(rank, len(parts), count))
        mine = [parts[place] for place in places]
        if count > 1:
            # The mean over the devices is taken when gradients are exchanged, and the sum is wanted. A device
            # without a part in a short step takes part with a gradient of zero.
            mine = [part._replace(share=part.share * count) for part in mine] or [parts[0]._replace(share=0.0)]
        items = None
        if count == 1 and self.config.loss == "full":  # DDP follows gradients through the model alone
            # The making of item vectors may be random too (UniSRec's is), and no part of the step is its own.
            torch.manual_seed(_part_seed(self.config.seed, number, self.done, -1))
            with self.fabric.autocast():
                items = self.model.step_items()

        @contextmanager
        def around(turn: int) -> Iterator[None]:
            place = places[turn] if places else 0
            torch.manual_seed(_part_seed(self.config.seed, number, self.done, place))
            with self.fabric.no_backward_sync(self.wrapped, enabled=turn < len(mine) - 1):
                yield

        found = accumulate(
            self.model, self.examples, mine,
            in_batch=self.config.loss == "in_batch", items=items, call=self.wrapped, backward=self.fabric.backward,
            around=around,
        )  # fmt: skip
        if count == 1:
            return found
        losses = torch.zeros(len(parts), device=self.fabric.device)
        losses[places] = found[: len(places)]
        return cast(Tensor, self.fabric.all_reduce(losses, reduce_op="sum"))

    def _checked(self, losses: Tensor, epoch: int) -> float:
        """The sum of the losses of one step, looked at once a step: every look waits for the device."""
        if not losses.isfinite().all():
            first = self.done * self.config.accumulate + 1
            last = min(first + self.config.accumulate - 1, self.batches)
            raise _DivergedError(
                f"{self.domain.name}: the loss is not finite at epoch {epoch}, batch {first}"
                f"{f' to {last}' if last > first else ''}; lower learning_rate, or look for extreme values in the "
                "features"
            )
        return float(losses.sum())

    def _record(self, number: int, loss: float | None) -> None:
        """Validate where it is due, append to the history, keep the weights if they are the best, and see
        whether to stop."""
        every, metric = self.config.validate_every, self.config.metric
        due = every and (number % every == 0 or number == self.config.epochs)
        validation = self._validation() if due else None
        epoch = Epoch(number, self.steps, self.seen, loss, validation, self.seconds)
        better = validation is not None and (self.best is None or _value(epoch, metric) > _value(self.best, metric))
        if self.config.keep == "last" or better:
            self._keep(epoch)
        self.history.append(epoch)
        self._log(epoch)
        self.tell("epoch", epoch)
        if self._patience_is_out():
            self.stopped = f"no better {metric} in {self.config.patience} validations"
        elif number >= self.config.epochs:
            self.stopped = "epoch cap"
        self._save_if_due()

    def _validation(self) -> Metrics:
        """The first device's, sent to all: every device must come to the same decisions."""
        found: Metrics | ModelError | None = None
        if self.fabric.is_global_zero:
            try:
                found = evaluate(self.model, self.domain, "validation")
            except ModelError as error:
                found = error
        found = self.fabric.broadcast(found)
        if not isinstance(found, Metrics):
            raise _DivergedError(f"{self.domain.name}: epoch {len(self.history)}: {found}")
        return found

    def _keep(self, epoch: Epoch) -> None:
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        wrong = sorted(name for name, weight in weights.items() if not weight.isfinite().all())
        if wrong:
            raise _DivergedError(
                f"{self.domain.name}: {wrong[0]} is not finite after epoch {epoch.epoch}; lower learning_rate"
            )
        self.best, self.weights = epoch, weights

    def _patience_is_out(self) -> bool:
        validated = [epoch for epoch in self.history if epoch.validation is not None]
        if self.config.patience is None or not validated:
            return False
        values = [_value(epoch, self.config.metric) for epoch in validated]
        return len(values) - 1 - values.index(max(values)) >= self.config.patience

    def _log(self, epoch: Epoch) -> None:
        values = {name: value for name, value in epoch.row().items() if name != "epoch" and value is not None}
        if self.config.loggers:
            self.fabric.log_dict(values, step=epoch.epoch)

    def _save_if_due(self) -> None:
        if self.state is None or not self.fabric.is_global_zero:
            return
        if time.perf_counter() - self.saved < self.state_seconds:
            return
        progress = {
            "epoch": len(self.history),
            "done": self.done,
            "steps": self.steps,
            "seen": self.seen,
            "total": self.total,
            "history": [asdict(epoch) for epoch in self.history],
            "best": None if self.best is None else self.history.index(self.best),
            "stopped": self.stopped,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
        }
        tensors: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in self.model.named_parameters()}
        tensors |= {f"kept.{name}": weight for name, weight in self.weights.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"optimiser.{key}.{name}": value for key, value in self.optimiser.state[parameter].items()}
        self.state.save(progress, tensors)
        self.saved = time.perf_counter()

    def _restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.done, self.steps, self.seen = progress["done"], progress["steps"], progress["seen"]
        self.total, self.stopped = progress["total"], progress["stopped"]
        self.history = [_epoch_of(row) for row in progress["history"]]
        self.best = None if progress["best"] is None else self.history[progress["best"]]
        self.started -= progress["seconds"]
        self.training_seconds = progress["training_seconds"]
        self.resumed_at = self.steps
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, value in tensors.items():
                kind, name = key.split(".", 1)
                if kind == "model":
                    parameters[name].copy_(value)
                elif kind == "kept":
                    self.weights[name] = value.to(self.fabric.device)
                else:
                    # Moments lie beside their parameter; counters stay on the CPU, as NAdam makes them.
                    slot, name = name.split(".", 1)
                    parameter = parameters[name]
                    moment = value.shape == parameter.shape
                    self.optimiser.state[parameter][slot] = value.to(parameter.device) if moment else value
        if self.fabric.is_global_zero:
            print(f"{self.domain.name}: goes on after {self.steps} optimiser steps", file=sys.stderr)


def _silent(kind: str, value: Any) -> None:
    """What every device but the first tells."""


def _part_seed(seed: int, epoch: int, step: int, place: int) -> int:
    """The seed of a part's dropout: whichever device computes it, and wherever a run was taken up again."""
    digest = hashlib.sha256(f"{seed} {epoch} {step} {place}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # the CPU's generator takes 32 bits


def _epoch_of(row: dict[str, Any]) -> Epoch:
    """The inverse of `asdict`."""
    validation = row["validation"] and Metrics(**row["validation"])
    return Epoch(**{**row, "validation": validation})


def _value(epoch: Epoch, metric: str) -> float:
    return -math.inf if epoch.validation is None else epoch.validation.value(metric)


def _fabric(config: TrainConfig, logs: Path | None) -> "Fabric":
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise ModelError(f"training needs lightning-fabric ({error}): pip install lightning-fabric") from None
    gpus = torch.cuda.device_count()
    if config.device == "cuda" and not gpus:
        raise ModelError("device is 'cuda' but no GPU is available: set device to 'auto' or 'cpu'")
    if gpus and config.device != "cpu" and config.devices > gpus:
        raise ModelError(f"devices is {config.devices} but there are {gpus} GPUs: set devices to at most {gpus}")
    strategy: Any = "auto"
    if config.devices > 1:
        # The buffers are the features, the same everywhere: broadcasting them would cost more than the step.
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Fabric(
        accelerator=config.device,
        devices=config.devices,
        strategy=strategy,
        precision=config.precision,
        loggers=_loggers(config, logs),
    )


def _loggers(config: TrainConfig, logs: Path | None) -> list[Any]:
    if not config.loggers or os.environ.get("LOCAL_RANK", "0") != "0":
        return []  # the first process logs
    if logs is None:
        raise ModelError(f"loggers is {', '.join(config.loggers)} but no folder is given: pass logs (--logs)")
    from lightning_fabric.loggers.csv_logs import CSVLogger
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    loggers: list[Any] = []
    for name in config.loggers:
        folder = logs / name
        # A resumed run logs its past again, so what it left is not missed, and would show every epoch twice.
        for old in [*folder.glob("metrics.csv"), *folder.glob("events.out.tfevents.*")]:
            old.unlink(missing_ok=True)
        if name == "csv":
            loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1))
        else:
            try:
                loggers.append(TensorBoardLogger(folder, name="", version=""))
            except ModuleNotFoundError:
                raise ModelError(
                    "the logger 'tensorboard' needs a package that is not installed: pip install "
                    "'mmm4rec[tensorboard]', or set loggers to [csv]"
                ) from None
    return loggers
