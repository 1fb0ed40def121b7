"""The training of several baselines on a domain, into one folder of files.

`NAME.safetensors` is a checkpoint, as `checkpoint.load` takes it, `NAME.json` the record of its training; they share
`items.parquet` (the items of the domain) and `history.parquet` (the epochs of all).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.registry import stated
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
        code = (codes or {}).get(name, "")

        def tell(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(1000 * number + 1000 * done // total, 1000 * len(asked))

        def build(
            made: Path,
            unfinished: Path,
            name: str = name,
            model: RecommenderConfig = model,
            training: TrainConfig = training,
            tell: Callable[[int, int], None] = tell,
        ) -> None:
            found = fit(
                domain,
                model,
                training,
                made,
                data_versions=data_versions,
                state=unfinished,
                keep_state=True,
                logs=logs / name if logs else None,
                progress=tell,
            )
            (made / "summary.json").write_text(json.dumps(asdict(found)), encoding="utf-8")

        finished = keep(state, _decisive(model, training, data_versions, code), build)
        summary[name] = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
        shutil.copyfile(finished / "model.safetensors", out / f"{name}.safetensors")
        shutil.copyfile(finished / "model.json", out / f"{name}.json")
        if (finished / "items.parquet").exists():
            shutil.copyfile(finished / "items.parquet", out / "items.parquet")
        rows = pq.ParquetFile(finished / "history.parquet").read().to_pylist()
        history.extend({"model": name, **row} for row in rows)
        tell(1, 1)
    write_table(history, "models/baselines/history", out / "history.parquet")
    return BaselinesSummary(summary)


def _decisive(
    model: RecommenderConfig, training: TrainConfig, data_versions: Mapping[str, str] | None, code: str
) -> dict[str, Any]:
    """All that decides a training."""
    return {"data": dict(data_versions or {}), "code": code, "model": stated(model), "training": asdict(training)}
