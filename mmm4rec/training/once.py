"""A training that is done only once: a run or a comparison that requests the same training again gets its files.

The files are those of `fit`, `summary.json` (fields of `TrainSummary`), and `measured.json` (`seconds` by epoch and
`peak_bytes`). `mmm4rec.training.kept` stores them.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.registry import config_as_dict
from mmm4rec.training import memory
from mmm4rec.training.fit import Epoch, fit
from mmm4rec.training.kept import digest_of, keep

__all__ = ["TrainingRecipe", "train_once"]


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides a training on one domain."""

    model: RecommenderConfig
    training: TrainConfig
    data: Mapping[str, str]
    """The versions of the training data."""
    code: str
    """The version of the training code."""
    more: Mapping[str, object] = field(default_factory=dict)
    """Other inputs that decide it: initial weights, a part of the data. Empty for a whole domain from scratch."""

    @property
    def decisive(self) -> dict[str, object]:
        """The recipe as JSON."""
        model, training = config_as_dict(self.model), asdict(self.training)
        return {"model": model, "training": training, "data": dict(self.data), "code": self.code, **self.more}

    @property
    def digest(self) -> str:
        """The name of the folder of the stored training."""
        return digest_of(self.decisive)


def train_once(
    cache: Path,
    recipe: TrainingRecipe,
    domain: DomainData,
    *,
    init: Path | None = None,
    lasting: bool = True,
    logs: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AbstractContextManager[Path]:
    """The folder of the finished training on `domain`. Arguments and errors are those of `fit` and `keep`."""

    def build(made: Path, unfinished: Path) -> None:
        seconds = _Seconds(unfinished / "seconds.json")
        memory.forget_peak()
        summary = fit(
            domain,
            recipe.model,
            recipe.training,
            made,
            init=init,
            data_versions=recipe.data,
            state=unfinished / "state",
            keep_state=True,
            logs=logs,
            on_epoch=seconds,
            progress=progress,
        )
        measured = {"peak_bytes": memory.peak_bytes(summary.device), "seconds": seconds.by_epoch}
        _write(made / "summary.json", asdict(summary))
        _write(made / "measured.json", measured)

    return keep(cache, recipe.decisive, build, lasting=lasting)


class _Seconds:
    """Wall-clock time by epoch, which `history` lacks. It is on disk, because a training may take several runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_epoch: dict[str, float] = {}
        with suppress(OSError, ValueError):  # without the file, only the times of past epochs are unknown
            self.by_epoch = dict(json.loads(file.read_text(encoding="utf-8")))

    def __call__(self, epoch: Epoch) -> None:
        self.by_epoch[str(epoch.epoch)] = epoch.seconds
        self.file.parent.mkdir(parents=True, exist_ok=True)
        written = self.file.with_suffix(".new")
        _write(written, self.by_epoch)
        written.replace(self.file)


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
