"""Training of several baselines on a domain, into one folder.

`NAME.safetensors` is a checkpoint for `checkpoint.load`, and `NAME.json` is the record of its training. All baselines
share `items.parquet` (the items of the domain) and `history.parquet` (the epochs of all).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmm4rec.data.domain import DomainData
from mmm4rec.tables import write_table
from mmm4rec.training.once import TrainingRecipe, train_once


@dataclass(frozen=True)
class BaselinesSummary:
    """The summaries of the trainings: the fields of `training.TrainSummary`, by model name."""

    models: dict[str, dict[str, Any]]


def fit_all(
    domain: DomainData,
    asked: Mapping[str, TrainingRecipe],
    out: Path,
    *,
    cache: Path,
    logs: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BaselinesSummary:
    """Train every model of `asked` (by name) on `domain`, one after the other.

    Args:
        asked: at least one model.
        out: folder for the files named above.
        cache: folder of `train_once`. A finished training is taken from there, whichever other models are requested,
            and an unfinished training continues.
        logs: folder for the files of the trainings' loggers, by name.
        progress: called with (done, total), in thousandths of a training.

    Raises:
        ModelError: as `training.fit`.
    """
    summary: dict[str, dict[str, Any]] = {}
    history: list[dict[str, Any]] = []
    for number, (name, recipe) in enumerate(asked.items()):

        def tell(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(1000 * number + 1000 * done // total, 1000 * len(asked))

        with train_once(cache, recipe, domain, logs=logs / name if logs else None, progress=tell) as trained:
            summary[name] = json.loads((trained / "summary.json").read_text(encoding="utf-8"))
            history.extend({"model": name, **row} for row in _copy(trained, name, out))
        tell(1, 1)
    write_table(history, "models/baselines/history", out / "history.parquet")
    return BaselinesSummary(summary)


def _copy(finished: Path, name: str, out: Path) -> list[dict[str, Any]]:
    """Copy the files of a finished training into `out`, and return the rows of its history."""
    shutil.copyfile(finished / "model.safetensors", out / f"{name}.safetensors")
    shutil.copyfile(finished / "model.json", out / f"{name}.json")
    if (finished / "items.parquet").exists():
        shutil.copyfile(finished / "items.parquet", out / "items.parquet")
    rows: list[dict[str, Any]] = pq.ParquetFile(finished / "history.parquet").read().to_pylist()
    return rows
