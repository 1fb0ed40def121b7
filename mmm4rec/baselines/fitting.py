"""The training of several baselines on a domain, into one folder of files.

`NAME.safetensors` is a checkpoint, as `checkpoint.load` takes it, `NAME.json` the record of its training; they share
`items.parquet` (the items of the domain) and `history.parquet` (the epochs of all).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.registry import config_as_dict
from mmm4rec.tables import write_table
from mmm4rec.training.fit import fit
from mmm4rec.training.kept import digest_of, keep


@dataclass(frozen=True)
class BaselinesSummary:
    """What the trainings did: the fields of `training.TrainSummary`, by name of the model."""

    models: dict[str, dict[str, Any]]


def kept_name(
    model: RecommenderConfig, training: TrainConfig, data_versions: Mapping[str, str] | None, code: str
) -> str:
    """The folder that `fit_all` keeps a training in."""
    return digest_of(_decisive(model, training, data_versions, code))


def fit_all(
    domain: DomainData,
    asked: Mapping[str, tuple[RecommenderConfig, TrainConfig]],
    out: Path,
    *,
    state: Path,
    data_versions: Mapping[str, str] | None = None,
    codes: Mapping[str, str] | None = None,
    logs: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BaselinesSummary:
    """Train every model of `asked` (model and training, by name) on `domain`, one after the other.

    Args:
        asked: at least one.
        out: folder for the files named above.
        state: folder for finished and unfinished trainings, each under `kept_name`: one that is finished is taken from
            there, whatever else is asked for, and an unfinished one goes on. Nothing finished is removed.
        data_versions: versions of the inputs: they decide what is kept, and stand in the records.
        codes: version of the code that trains each model, by its name, which decides it too.
        logs: folder for the files of the trainings' loggers, by name.
        progress: called with (done, total), in thousandths of a training.

    Raises:
        ModelError: as `training.fit`.
    """
    summary: dict[str, dict[str, Any]] = {}
    history: list[dict[str, Any]] = []
    for number, (name, (model, training)) in enumerate(asked.items()):

        def tell(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(1000 * number + 1000 * done // total, 1000 * len(asked))

        how = partial(_train, domain, model, training, data_versions, logs / name if logs else None, tell)
        finished = keep(state, _decisive(model, training, data_versions, (codes or {}).get(name, "")), how)
        summary[name] = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
        history.extend({"model": name, **row} for row in _copy(finished, name, out))
        tell(1, 1)
    write_table(history, "models/baselines/history", out / "history.parquet")
    return BaselinesSummary(summary)


def _train(
    domain: DomainData,
    model: RecommenderConfig,
    training: TrainConfig,
    data_versions: Mapping[str, str] | None,
    logs: Path | None,
    progress: Callable[[int, int], None],
    made: Path,
    unfinished: Path,
) -> None:
    """Fill the folder `made` with a finished training."""
    found = fit(
        domain,
        model,
        training,
        made,
        data_versions=data_versions,
        state=unfinished,
        keep_state=True,
        logs=logs,
        progress=progress,
    )
    (made / "summary.json").write_text(json.dumps(asdict(found)), encoding="utf-8")


def _copy(finished: Path, name: str, out: Path) -> list[dict[str, Any]]:
    """Copy the files of a finished training into `out`, and return the rows of its history."""
    shutil.copyfile(finished / "model.safetensors", out / f"{name}.safetensors")
    shutil.copyfile(finished / "model.json", out / f"{name}.json")
    if (finished / "items.parquet").exists():
        shutil.copyfile(finished / "items.parquet", out / "items.parquet")
    rows: list[dict[str, Any]] = pq.ParquetFile(finished / "history.parquet").read().to_pylist()
    return rows


def _decisive(
    model: RecommenderConfig, training: TrainConfig, data_versions: Mapping[str, str] | None, code: str
) -> dict[str, Any]:
    """All that decides a training."""
    return {
        "data": dict(data_versions or {}),
        "code": code,
        "model": config_as_dict(model),
        "training": asdict(training),
    }
