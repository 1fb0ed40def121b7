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
from mmm4rec.data import DomainData
from mmm4rec.tables import write_table
from mmm4rec.training import fit


@dataclass(frozen=True)
class BaselinesSummary:
    """What the trainings did: the fields of `training.TrainSummary`, by name of the model."""

    models: dict[str, dict[str, Any]]


def fit_all(
    domain: DomainData,
    asked: Mapping[str, tuple[RecommenderConfig, TrainConfig]],
    out: Path,
    *,
    state: Path,
    data_versions: Mapping[str, str] | None = None,
    logs: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BaselinesSummary:
    """Train every model of `asked` (model and training, by name) on `domain`, one after the other.

    Args:
        asked: at least one.
        out: folder for the files named above.
        state: folder of this work alone: what is finished and what is unfinished in it is taken up again; removed at
            the end.
        data_versions: versions of the inputs, kept in the records.
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

        finished = state / name / "finished"
        if not finished.exists():
            made = state / name / "made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
            found = fit(
                domain,
                model,
                training,
                made,
                data_versions=data_versions,
                state=state / name / "unfinished",
                logs=logs / name if logs else None,
                progress=tell,
            )
            (made / "summary.json").write_text(json.dumps(asdict(found)), encoding="utf-8")
            made.rename(finished)
        summary[name] = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
        shutil.copyfile(finished / "model.safetensors", out / f"{name}.safetensors")
        shutil.copyfile(finished / "model.json", out / f"{name}.json")
        if (finished / "items.parquet").exists():
            shutil.copyfile(finished / "items.parquet", out / "items.parquet")
        rows = pq.ParquetFile(finished / "history.parquet").read().to_pylist()
        history.extend({"model": name, **row} for row in rows)
        tell(1, 1)
    write_table(history, "models/baselines/history", out / "history.parquet")
    shutil.rmtree(state)
    return BaselinesSummary(summary)
