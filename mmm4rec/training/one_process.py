"""The whole training in one process: create the model, run the loop, write the files. If there are several processes,
only the first writes.

`processes` starts the processes; `loop` trains the weights.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch

from mmm4rec import checkpoint
from mmm4rec.checkpoint import Transfer
from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ModelError
from mmm4rec.model.kernels import Choice
from mmm4rec.registry import config_as_dict, make
from mmm4rec.training.loop import DivergedError, Loop, Send, Share
from mmm4rec.training.record import TrainSummary, curve_summary, write_record
from mmm4rec.training.resume import StateFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAST_GOOD: Final = "last-good"
"""Folder for the last good weights of a training that diverged; in the folder of the state, otherwise of the output."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of `fit` that every process gets."""

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
    """The identity of the state to continue from (`resume.identity`); None without a state."""
    ssd: Choice | None
    """The form of the SSD; None for a model without an SSD."""
    logs: Path | None
    share: Share | None = None


def train(plan: Arguments, send: Send, fabric: "Fabric") -> TrainSummary:
    """Train in this process, one of the processes of `fabric`. Every process gets the summary.

    Raises:
        ModelError: as `fit`.
    """
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(plan.train_config.seed)
        model = make(plan.model_config, plan.domain, plan.train_config.ssd_form)
        moved = None if plan.init is None else checkpoint.transfer(checkpoint.load(plan.init), model, plan.domain)
        folder = None if plan.state is None or plan.identity is None else StateFolder(plan.state, plan.identity)
        loop = Loop(fabric, model, plan.domain, plan.train_config, send, folder, plan.state_seconds, plan.share)
        try:
            loop.run()
        except DivergedError as error:
            _write_last_good(plan, loop, moved, error)
    summary = _summary(plan, loop, moved)
    if fabric.is_global_zero:
        _write(plan, loop, moved, plan.out)
        if folder and not plan.keep_state:
            folder.remove()
        for logger in fabric.loggers:
            logger.finalize("success")
    fabric.barrier()
    return summary


def _write_last_good(plan: Arguments, loop: Loop, moved: Transfer | None, error: DivergedError) -> NoReturn:
    """Write the best weights of a diverged training, if there are any, and end it with a `ModelError`."""
    best, out = loop.state.best, (plan.state or plan.out) / LAST_GOOD
    if best is None:
        raise ModelError(str(error)) from None
    if loop.fabric.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        loop.state.stopped = str(error)
        _write(plan, loop, moved, out)
    loop.fabric.barrier()  # one process that ends would end all, and the first is still writing
    raise ModelError(f"{error}. The last good weights, those of epoch {best.epoch}, are in {out}") from None


def _write(plan: Arguments, loop: Loop, moved: Transfer | None, out: Path) -> None:
    """Write the files of a model."""
    checkpoint.save(loop.model, plan.domain, loop.state.best_weights, out)
    write_record(
        out,
        loop.state.history,
        loop.state.written_epoch,
        model=config_as_dict(plan.model_config),
        training=asdict(plan.train_config),
        data_versions=plan.data_versions,
        transfer=None if moved is None else asdict(moved),
        stopped=loop.state.stopped,
    )


def _summary(plan: Arguments, loop: Loop, moved: Transfer | None) -> TrainSummary:
    state, count, device = loop.state, loop.fabric.world_size, str(loop.fabric.device)
    return TrainSummary(
        **curve_summary(state.history, state.written_epoch, plan.train_config.metric),
        examples_per_step=plan.train_config.examples_per_step,
        examples_per_epoch=len(loop.examples),
        parameters=sum(parameter.numel() for parameter in loop.model.parameters()),
        stopped=state.stopped,
        transfer=moved,
        ssd="none" if plan.ssd is None else f"{plan.ssd.form}: {plan.ssd.reason}",
        device=device if count == 1 else f"{count} x {device.split(':')[0]}",
        seconds=state.seconds,
        examples_per_second=state.history[-1].examples / max(state.training_seconds, 1e-9),
        resumed_at=state.resumed_at,
    )
