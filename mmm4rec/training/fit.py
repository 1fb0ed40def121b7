"""Training: one trainer for pre-training (several domains merged), training from scratch, and fine-tuning from a
checkpoint. It works for MMM4Rec and every other model of `mmm4rec.registry`; the type of the config selects the model.

It uses NAdam over seeded, length-bucketed batches, sums the gradients of `accumulate` batches per step, validates by
full ranking, and stops early. The written files depend only on inputs, config and machine: seconds are returned, not
written. Lightning Fabric (devices, precision, strategy, loggers) is imported inside `fit`, so the package can be
imported without it.

**Random numbers.** (seed, epoch) decides the order of an epoch, and (seed, epoch, step, part) decides the dropout of a
part of a step. So a run that was stopped anywhere can continue without restoring a random state, and a part is the same
on every device.

**Several devices.** The devices take the parts of an optimiser step (`gradient`) in turn, and the gradients are summed.
The number of devices does not change what is computed. `batch_size` is one batch on one device. The negatives of the
in-batch loss are the labels of that batch, never those of batches on other devices. Gradients are exchanged once per
step. The first device validates and writes; the others wait for it. An error in one process ends all processes.

**Resuming.** See `state` and `resume`. `fit(state=...)` saves between two optimiser steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmm4rec import checkpoint
from mmm4rec.config import ModelConfig, RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData, merge_domains
from mmm4rec.model.compat import rules
from mmm4rec.model.kernels import Choice
from mmm4rec.model.ssd import choose
from mmm4rec.registry import config_as_dict, model_of
from mmm4rec.training.log import EpochLog
from mmm4rec.training.loop import Send, Share
from mmm4rec.training.one_process import LAST_GOOD, Arguments
from mmm4rec.training.precision import activations_in, precision_on
from mmm4rec.training.processes import make_fabric, train_here, train_in_new_processes
from mmm4rec.training.record import Epoch, TrainSummary, write_record
from mmm4rec.training.resume import identity

__all__ = ["LAST_GOOD", "Adopted", "Epoch", "TrainSummary", "adopt", "fit", "pretrain"]

STATE_SECONDS = 30.0
"""Seconds between two saves of the state. A kill loses about this much work."""


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
    share: Share | None = None,
    logs: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train the model that `model_config` describes on `domain`, and write it into `out`.

    Files: `model.safetensors`, `items.parquet` (if there are per-item weights), `history.parquet` (one row per epoch;
    epoch 0 is before training) and `model.json` (config, data versions, transfer list, metrics).

    Args:
        init: a checkpoint to start from; see `checkpoint.transfer` for what is used. None starts from scratch.
        data_versions: versions of the inputs, recorded in `model.json`.
        state: folder for the state of the unfinished training. A run that finds a state of the same config, data and
            code there continues from it and ends with the same weights as an unbroken run (on a CPU, the same
            bytes). The state is removed at the end. None: an interrupted training is lost.
        state_seconds: seconds between two saves of the state; 0 saves after every optimiser step.
        keep_state: keep the state at the end, so that a caller that is killed before it publishes can continue.
        share: for processes on several machines (strategy ddp): called in each of them with its `state` when the first
            has saved the state there, so that it can be kept where all find it. A run that continues needs the same
            state in every process.
        logs: folder for the files of `train_config.loggers`.
        on_epoch: called before the first and after every epoch of this run. The logger `mmm4rec` logs them too.
        progress: called with (optimiser steps done, optimiser steps at the maximum number of epochs).

    Raises:
        ConfigError: `train_config.ssd_form` requests a form of the SSD that cannot run here.
        ModelError: there is no training example, the validation set is empty, the checkpoint does not fit, or a device
            or logger is missing. Or a loss, score or weight is not finite: then the last good weights are a complete
            checkpoint in the folder `last-good` of `state` (without a state: of `out`).
    """
    if train_config.least_steps:
        train_config = train_config.fitted(len(domain.examples("training", model_config.length)))
    fabric = make_fabric(train_config, logs)
    ssd = _ssd_form(model_config, train_config, fabric.device)  # first of all, because the form may not run here
    known = None if state is None else identity(domain, model_config, train_config, init)
    arguments = Arguments(
        domain, model_config, train_config, out, init, dict(data_versions or {}), state, state_seconds, keep_state,
        known, ssd, logs, share,
    )  # fmt: skip
    send = _passing_on(EpochLog(model_config, train_config, domain.name), on_epoch, progress)
    started = train_config.strategy == "ddp" or torch.distributed.is_torchelastic_launched()
    if train_config.devices > 1 and not started:
        return train_in_new_processes(arguments, send)
    return train_here(fabric, arguments, send)


def _passing_on(
    log: EpochLog, on_epoch: Callable[[Epoch], None] | None, progress: Callable[[int, int], None] | None
) -> Send:
    """Passes the messages of the processes on to these."""

    def send(kind: str, value: Any) -> None:
        if kind == "epoch":
            log(value)
            if on_epoch:
                on_epoch(value)
        elif kind == "progress" and progress:
            progress(*value)

    return send


def _ssd_form(model_config: RecommenderConfig, train_config: TrainConfig, device: torch.device) -> Choice | None:
    if not model_of(model_config).has_state_space:
        return None
    dtype = activations_in(precision_on(device, train_config))
    return choose(model_config.length, train_config.ssd_form, device, dtype)


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
    share: Share | None = None,
    logs: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainSummary:
    """Train on several merged domains (ids get the domain as prefix). Arguments and errors are those of `fit`.

    Default mode trains without per-item vectors, because a transfer would discard them.
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
        share=share,
        logs=logs,
        on_epoch=on_epoch,
        progress=progress,
    )


@dataclass(frozen=True)
class Adopted:
    """A model that was trained elsewhere."""

    parameters: int
    items: int
    """N of the per-item weights; 0 if there are none."""
    model: dict[str, Any]
    """The config of the model, and its kind if it is not MMM4Rec."""


def adopt(source: Path, out: Path) -> Adopted:
    """Write the checkpoint `source` into `out` as a model that was not trained here: the files of `fit`, with a history
    that ends before the first epoch.

    Raises:
        ModelError: as `checkpoint.load`.
    """
    found = checkpoint.load(source)
    item_ids = found.item_ids or []
    checkpoint.write(found.config, found.weights, found.text, found.image, item_ids, out)
    start = Epoch(0, 0, 0, None, None)
    write_record(out, [start], start, model=config_as_dict(found.config), training=None, stopped="trained elsewhere")
    return Adopted(
        sum(weight.numel() for weight in found.weights.values()), len(item_ids), config_as_dict(found.config)
    )
