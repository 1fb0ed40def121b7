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

**Resuming.** See `state` and `resume`; `fit(state=...)` saves between two optimiser steps.
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
from mmm4rec.training.one_process import LAST_GOOD, Arguments
from mmm4rec.training.processes import make_fabric, train_here, train_in_new_processes
from mmm4rec.training.record import Epoch, TrainSummary, write_record
from mmm4rec.training.resume import identity

__all__ = ["LAST_GOOD", "Adopted", "Epoch", "TrainSummary", "adopt", "fit", "pretrain"]

STATE_SECONDS = 30.0
"""Time from one save of the state to the next: about what a kill costs."""


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
        init: a checkpoint to start from; see `checkpoint.transfer` for what is taken. None starts from scratch.
        data_versions: versions of the inputs, kept in `model.json`.
        state: folder for the state of the unfinished training. A run that finds one there of the same config,
            data and code goes on from it and ends with the same weights as an unbroken run (on a CPU to the
            byte); it is removed at the end. None: an interrupted training is lost.
        state_seconds: seconds from one save of the state to the next; 0 saves after every optimiser step.
        keep_state: leave the state at the end. A caller killed before it has put the files in place would lose it.
        logs: folder for the files of `train_config.loggers`.
        on_epoch: called after every epoch (and before the first) of this run, which the logger `mmm4rec` says too.
        progress: called with (optimiser steps done, those at the epoch cap).

    Raises:
        ConfigError: a form of the SSD asked for by `train_config.ssd_form` that cannot run here.
        ModelError: no training example, an empty validation set, a checkpoint that does not fit, a device or
            logger that is not there. Or a loss, score or weight that is not finite: the last good weights are
            then in the folder `last-good` of `state` (without one: of `out`), as a whole checkpoint.
    """
    if train_config.least_steps:
        train_config = train_config.fitted(len(domain.examples("training", model_config.length)))
    fabric = make_fabric(train_config, logs)
    ssd = _ssd_form(model_config, train_config, fabric.device)  # before anything is read or built: it may not run here
    known = None if state is None else identity(domain, model_config, train_config, init)
    arguments = Arguments(
        domain, model_config, train_config, out, init, dict(data_versions or {}), state, state_seconds, keep_state,
        known, ssd, logs,
    )  # fmt: skip
    log = EpochLog(model_config, train_config, domain.name)

    def send(kind: str, value: Any) -> None:
        if kind == "epoch":
            log(value)
            if on_epoch:
                on_epoch(value)
        elif kind == "progress" and progress:
            progress(*value)

    if train_config.devices > 1 and train_config.strategy != "ddp":
        return train_in_new_processes(arguments, send)
    return train_here(fabric, arguments, send)


def _ssd_form(model_config: RecommenderConfig, train_config: TrainConfig, device: torch.device) -> Choice | None:
    if not model_of(model_config).has_state_space:
        return None
    dtype = torch.bfloat16 if train_config.precision == "bf16-mixed" else torch.float32
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
    write_record(out, [start], start, model=config_as_dict(found.config), training=None, stopped="trained elsewhere")
    return Adopted(
        sum(weight.numel() for weight in found.weights.values()), len(item_ids), config_as_dict(found.config)
    )
