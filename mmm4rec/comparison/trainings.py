"""The trainings of a comparison, and how they are run.

All models of a domain have the same users, items, features, budget and evaluation. Popularity and item-kNN take only
moments and are always included. **Validation decides which epoch is kept**; the test labels are ranked once for each
finished training. `mmm4rec.comparison.tables` makes the result tables.

The result of a training is stored (`mmm4rec.training.kept`) under a digest of everything that decides it (versions of
the data and the code, config, seed, initial weights). So a stopped comparison continues, and a new comparison trains
only what is new. For a tested model, the ranks and the curve are stored, but not the weights. If a run has stored the
weights of the same training (`mmm4rec.training.once`), these are tested and nothing is trained.

A model that learns from a share of the users (`subsets`) is validated only on this share. It is tested on all users of
the domain, the same users for every share.

This module writes no other files.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmm4rec.baselines import item_knn, popularity
from mmm4rec.baselines.config import BASELINES, ITEM_KNN, BaselineSettings, ItemKNNConfig, resolve
from mmm4rec.checkpoint import load_model
from mmm4rec.comparison.ablations import AblationConfig
from mmm4rec.comparison.subsets import Modality, share_of_users, without
from mmm4rec.config import ModelConfig, RecommenderConfig, TrainConfig, nearest
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ConfigError
from mmm4rec.evaluation.ranking import rank_labels
from mmm4rec.registry import config_as_dict
from mmm4rec.reports import SPLITS
from mmm4rec.tables import COMPARISON, TABLES
from mmm4rec.training.fit import pretrain
from mmm4rec.training.kept import keep
from mmm4rec.training.once import TrainingRecipe, train_once

Progress = Callable[[int, int], None]
Code = Callable[[RecommenderConfig], str]

POPULARITY: Final = "popularity"
FULL: Final = "scratch"
"""The model from which ablations remove a part."""
OURS: Final[Mapping[str, tuple[bool, bool]]] = {
    FULL: (False, True),
    "scratch_without_id": (False, False),
    "finetuned": (True, True),
    "finetuned_without_id": (True, False),
}
"""MMM4Rec: whether it is pre-trained, and whether every item has a trainable vector."""
NAMES: Final = (POPULARITY, *BASELINES, *OURS)
"""All models that can be compared."""
UNTRAINED: Final = (POPULARITY, ITEM_KNN)
"""The models that count and are not trained. Every trained model should be better than these."""
ENOUGH_STEPS: Final = 100
"""A training with fewer optimiser steps says nothing about its model."""


@dataclass(frozen=True)
class Ablation:
    """A change to MMM4Rec from scratch: fields of `AblationConfig`, or a modality that is removed from all items."""

    settings: Mapping[str, Any]
    lacks: Modality | None = None


ABLATIONS: Final[Mapping[str, Ablation]] = {
    "no_time": Ablation({"use_time": False}),
    "separate_projections": Ablation({"shared_projection": False}),
    "no_text_filter": Ablation({"text_filter": False}),
    "no_image_filter": Ablation({"image_filter": False}),
    "no_cross_filter": Ablation({"cross_filter": False}),
    "attention": Ablation({"mixer": "attention"}),
    "no_feed_forward": Ablation({"use_ffn": False}),
    "text_only": Ablation({}, lacks="image"),
    "image_only": Ablation({}, lacks="text"),
}


@dataclass(frozen=True)
class ComparisonRequest:
    """The models to compare, and their settings.

    `models` are names from NAMES; UNTRAINED are added automatically. `users` are percentages of the users of a domain.
    `model`, `pretraining` and `finetuning` are settings of MMM4Rec. `baselines` are changes to published settings.
    """

    models: tuple[str, ...]
    model: ModelConfig
    pretraining: TrainConfig
    finetuning: TrainConfig
    baselines: Mapping[str, BaselineSettings]
    seeds: int = 3
    ablations: bool = True
    users: tuple[float, ...] = (100.0,)

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in NAMES:
                raise ConfigError(f"models: unknown model {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
        if not self.models:
            raise ConfigError(f"models: name at least one; known: {', '.join(NAMES)}")
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}: train at least once")
        for share in self.users:
            if not 0 < share <= 100:
                raise ConfigError(f"users: {share:g} is not a percentage above 0 and up to 100")

    @property
    def pretrained(self) -> list[str]:
        """The requested models that start from a pre-trained model."""
        return [name for name in self.models if name in OURS and OURS[name][0]]


@dataclass(frozen=True)
class Source:
    """A domain that is loaded when it is needed, and the versions that show whether it is still the same."""

    name: str
    load: Callable[[], DomainData]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Keeping:
    """Where a comparison stores its results, and the code versions that decide them. All may be deleted at any time."""

    results: Path
    """The folder for the results of trainings, and for pre-trained models."""
    trainings: Path
    """The folder of `train_once`, which also contains the trainings of runs."""
    trains: Code = lambda config: ""
    """The version of the code that trains a model."""
    tests: Code = lambda config: ""
    """The version of the code that prepares a comparison's data, trains a model and tests it."""


@dataclass(frozen=True)
class Run:
    """One training of a comparison. A model that only counts has neither seed nor training."""

    part: Literal["models", "ablations"]
    model: str
    percent: float = 100.0
    seed: int | None = None
    config: RecommenderConfig | ItemKNNConfig | None = None
    training: TrainConfig | None = None
    pretrained: bool = False
    lacks: Modality | None = None

    @property
    def key(self) -> tuple[str, str, float]:
        """The key that runs with different seeds share."""
        return self.part, self.model, self.percent


@dataclass(frozen=True)
class Finished:
    """A run and its results on a domain."""

    run: Run
    ranks: npt.NDArray[np.float64]
    """[U] The ranks of the test labels, in the same order of users for all runs of a domain."""
    lists: dict[str, float]
    """The metrics of the test lists: {coverage_10: ...}."""
    validation: dict[str, float]
    """The validation metrics of the tested weights: {ndcg_10: ...}."""
    cost: dict[str, Any]
    """The columns of `costs`; empty for a model that only counts."""
    curve: list[dict[str, Any]]
    """One row per epoch, starting before training, in the columns of `curves`."""

    @property
    def trained_to_end(self) -> bool:
        """Whether the training was long enough: later epochs were not better than the one that is kept, and there were
        ENOUGH_STEPS. A model that only counts needs no training."""
        training = self.run.training
        return training is None or (
            self.cost["best_epoch"] < training.epochs and self.cost["optimiser_steps"] >= ENOUGH_STEPS
        )


def planned(asked: ComparisonRequest, can_transfer: bool) -> list[Run]:
    """The runs on a domain.

    Raises:
        ConfigError: a model needs pre-training, and there is nothing to transfer from.
    """
    if asked.pretrained and not can_transfer:
        raise ConfigError(
            f"models: {', '.join(asked.pretrained)}: nothing is pre-trained, because there is no source domain and no "
            "checkpoint to start from: leave these models out, or give a source domain or a checkpoint"
        )
    names = [name for name in BASELINES if name in asked.models or name in UNTRAINED]
    given = {name: asked.baselines.get(name, BaselineSettings()) for name in names}
    baselines = resolve(given, asked.finetuning, asked.model.length)
    runs = [Run("models", POPULARITY), Run("models", ITEM_KNN, config=baselines.item_knn)]
    for seed in range(asked.seeds):

        def seeded(training: TrainConfig, seed: int = seed) -> TrainConfig:
            return replace(training, seed=training.seed + seed)

        for name, (config, training) in baselines.trained.items():
            runs.append(Run("models", name, 100.0, training.seed + seed, config, seeded(training)))
        training = seeded(asked.finetuning)
        for name, (pretrained, with_id) in OURS.items():
            wanted = name in asked.models or (name == FULL and asked.ablations)
            if wanted:
                config = replace(asked.model, with_id=with_id)
                for percent in sorted({100.0, *(asked.users if name in asked.models else ())}):
                    runs.append(Run("models", name, percent, training.seed, config, training, pretrained))
        if asked.ablations:
            for name, taken in ABLATIONS.items():
                ablated = AblationConfig(**{**asdict(asked.model), "with_id": True, **taken.settings})
                runs.append(Run("ablations", name, 100.0, training.seed, ablated, training, lacks=taken.lacks))
    return runs


def compare(
    target: Source,
    sources: Sequence[Source],
    asked: ComparisonRequest,
    keeping: Keeping,
    *,
    given: tuple[Path, str] | None = None,
    progress: Progress | None = None,
) -> list[Finished]:
    """Train and test the requested models on a target domain, and return the finished runs.

    Args:
        target: the domain to compare on.
        sources: the domains to pre-train on together.
        asked: the requested models and settings.
        keeping: where finished and unfinished trainings are stored.
        given: a checkpoint and its sha256, instead of pre-training.
        progress: called with (done, total), in thousandths of a training.

    Raises:
        ConfigError: as `planned`.
        ModelError: as `training.fit` and `share_of_users`. Runs that have finished are kept.
    """
    runs = planned(asked, can_transfer=given is not None or bool(sources))
    domain = target.load()
    for percent in {run.percent for run in runs}:
        share_of_users(domain, percent)  # reports an impossible share before hours are spent on trainings
    seeds = sorted({run.seed for run in runs if run.pretrained and run.seed is not None})
    total = 1000 * (len(runs) + (0 if given else len(seeds)))
    done = 0

    def shown(step: int, steps: int) -> None:
        if progress:
            progress(done + 1000 * step // max(steps, 1), total)

    starts: dict[int, tuple[Path, str]] = dict.fromkeys(seeds, given) if given else {}
    for seed in () if given else seeds:
        starts[seed] = _pretrained(sources, asked.model, replace(asked.pretraining, seed=seed), keeping, shown)
        done += 1000
        shown(0, 1)
    found = []
    for run in runs:
        start = starts[run.seed] if run.pretrained and run.seed is not None else None
        found.append(_finished(target, domain, run, start, keeping, shown))
        done += 1000
        shown(0, 1)
    return found


def _pretrained(
    sources: Sequence[Source], model: ModelConfig, training: TrainConfig, keeping: Keeping, progress: Progress
) -> tuple[Path, str]:
    """The pre-trained checkpoint and its sha256."""
    decisive = {
        "data": {source.name: dict(source.versions) for source in sources},
        "code": keeping.tests(model),
        "model": config_as_dict(model),
        "training": asdict(training),
    }

    def build(made: Path, unfinished: Path) -> None:
        pretrain(
            [source.load() for source in sources],
            model,
            training,
            made,
            state=unfinished,
            keep_state=True,
            progress=progress,
        )

    with keep(keeping.results, decisive, build) as folder:
        return folder, hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _finished(
    target: Source,
    domain: DomainData,
    run: Run,
    start: tuple[Path, str] | None,
    keeping: Keeping,
    progress: Progress,
) -> Finished:
    config, training = run.config, run.training
    if training is None or not isinstance(config, RecommenderConfig):
        return _counted(domain, run)
    share = run.percent if run.percent < 100 else None
    special = {"init": start and start[1], "users": share, "lacks": run.lacks}
    more = {name: value for name, value in special.items() if value is not None}  # empty: the same training as in a run
    code = keeping.tests(config) if more else keeping.trains(config)
    recipe = TrainingRecipe(config, training, target.versions, code, more)

    def test(made: Path, _: Path) -> None:
        whole = without(domain, run.lacks)
        learnt = share_of_users(whole, run.percent)
        init = start and start[0]
        once = train_once(keeping.trainings, recipe, learnt, init=init, lasting=False, progress=progress)
        trained = weights.enter_context(once)
        ranking = rank_labels(load_model(trained, whole, training.ssd_form), whole, "test")
        pq.write_table(pa.table({"rank": ranking.ranks.numpy()}), made / "ranks.parquet")
        record = _record(trained) | {"lists": ranking.of_lists()}
        (made / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    # The weights are deleted, but only after the results of their test are stored.
    results = keep(keeping.results, {"training": recipe.decisive, "code": keeping.tests(config)}, test)
    with ExitStack() as weights, results as folder:
        ranks = pq.ParquetFile(folder / "ranks.parquet").read()["rank"].to_numpy()
        return Finished(run, ranks, **json.loads((folder / "run.json").read_text(encoding="utf-8")))


def _record(trained: Path) -> dict[str, Any]:
    """The fields of `Finished` that come from a training."""
    summary, measured = (
        json.loads((trained / f"{name}.json").read_text(encoding="utf-8")) for name in ("summary", "measured")
    )
    cost = [field.name for field in TABLES[f"{COMPARISON}/costs"]]
    curve = [
        {name: row[name] for name in ("epoch", "optimiser_steps", "examples", "loss", "ndcg_10")}
        | {"seconds": measured["seconds"].get(str(row["epoch"]))}
        for row in pq.ParquetFile(trained / "history.parquet").read().to_pylist()
    ]
    known = summary | {"batch": summary["examples_per_step"], "peak_bytes": measured["peak_bytes"]}
    return {
        "validation": summary["validation"],
        "cost": {name: known[name] for name in cost if name in known},
        "curve": curve,
    }


def _counted(domain: DomainData, run: Run) -> Finished:
    config = run.config
    if isinstance(config, ItemKNNConfig):
        found = item_knn.rank(domain, config)
        validation, test = (found[split] for split in SPLITS)
    else:
        validation, test = (popularity.rank_labels(domain, split) for split in SPLITS)
    return Finished(run, test.ranks.numpy(), test.of_lists(), validation.metrics().values, {}, [])
