"""The record of a training: one row per epoch, the returned summary, and the files beside the weights.

`mmm4rec.checkpoint` writes the weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmm4rec.checkpoint import Transfer
from mmm4rec.evaluation.convergence import first_near_best
from mmm4rec.evaluation.results import Metrics
from mmm4rec.tables import write_table


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

    def value(self, metric: str) -> float | None:
        """The validation value of a metric such as `NDCG@10`; None if the epoch was not validated."""
        return None if self.validation is None else self.validation.value(metric)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Epoch":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**row, "validation": row["validation"] and Metrics(**row["validation"])})


@dataclass(frozen=True)
class TrainSummary:
    """The summary of a training."""

    best_epoch: int
    """Epoch of the weights written; 0 is before training."""
    epochs: int
    optimiser_steps: int
    optimiser_steps_to_best: int
    examples_per_step: int
    """The value in the settings, or fewer after `TrainConfig.fitted`."""
    examples_per_epoch: int
    examples_to_best: int
    seconds_to_best: float
    epochs_to_95: int | None
    """Epochs until 95% of the best value of the metric, whichever epoch is kept; None if never validated."""
    optimiser_steps_to_95: int | None
    seconds_to_95: float | None
    parameters: int
    validation: dict[str, float]
    """Validation metrics of the weights written (hr_10, ndcg_10, ...); empty if never validated."""
    stopped: str
    transfer: Transfer | None
    ssd: str
    """The form of the SSD and the reason; "none" for a model without an SSD."""
    device: str
    seconds: float
    """Wall-clock time of training and validation, over all the runs that it took."""
    examples_per_second: float
    """Training examples per second of training, validation not counted."""
    resumed_at: int | None
    """Optimiser steps already done when this run continued an unfinished one; None for a new training."""


def curve_summary(history: Sequence[Epoch], best: Epoch, metric: str) -> dict[str, Any]:
    """The fields of `TrainSummary` that follow from the epochs. `best` is the epoch whose weights are written."""
    last = history[-1]
    place = first_near_best([epoch.value(metric) for epoch in history])
    near = None if place is None else history[place]
    return {
        "best_epoch": best.epoch,
        "epochs": last.epoch,
        "optimiser_steps": last.optimiser_steps,
        "optimiser_steps_to_best": best.optimiser_steps,
        "examples_to_best": best.examples,
        "seconds_to_best": best.seconds,
        "epochs_to_95": None if near is None else near.epoch,
        "optimiser_steps_to_95": None if near is None else near.optimiser_steps,
        "seconds_to_95": None if near is None else near.seconds,
        "validation": {} if best.validation is None else best.validation.values,
    }


def write_record(out: Path, history: Sequence[Epoch], best: Epoch, **more: object) -> None:
    """Write `history.parquet` and `model.json` into `out`. `more` contains further fields of `model.json`."""
    write_table([epoch.row() for epoch in history], "models/finetuned/history", out / "history.parquet")
    record = {
        **more,
        "best_epoch": best.epoch,
        "epochs": history[-1].epoch,
        "optimiser_steps_to_best": best.optimiser_steps,
        "validation": {} if best.validation is None else best.validation.values,
    }
    (out / "model.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
