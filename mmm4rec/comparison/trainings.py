"""Which trainings a comparison is made of, and their running.

All models of a domain have the same users, items, features, budget and evaluation. Popularity and item-kNN, which cost
moments, are always there. **Which epoch is kept is decided on validation**; the test labels are ranked once for each
finished training. What came out says `mmm4rec.comparison.tables`.

What came of a training is kept (`mmm4rec.training.kept`) under a digest of all that decides it (versions of the data
and the code, config, seed, initial weights), so a comparison that was stopped goes on, and another one trains only what
is new. Of a model that was tested, the ranks and the curve are kept, not the weights; where a run has kept the weights
of the same training (`mmm4rec.training.once`), these are tested, and nothing is trained.

A model that learns from a share of the users (`subsets`) is validated on it alone, and tested on all users of the
domain: the same ones for every share.

No files here but what is kept.
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
"""The model that ablations take something from."""
OURS: Final[Mapping[str, tuple[bool, bool]]] = {
    FULL: (False, True),
    "scratch_without_id": (False, False),
    "finetuned": (True, True),
    "finetuned_without_id": (True, False),
}
"""MMM4Rec: whether it is pre-trained, and whether every item has a trainable vector."""
NAMES: Final = (POPULARITY, *BASELINES, *OURS)
"""All models that can be compared."""
COUNTED: Final = (POPULARITY, ITEM_KNN)
"""Those that are counted, and not trained: what any training has to be worth more than."""
ENOUGH_STEPS: Final = 100
"""Optimiser steps below which a training says nothing about its model."""


@dataclass(frozen=True)
class Ablation:
    """What is taken from MMM4Rec from scratch: fields of `AblationConfig`, or a modality that no item then has."""

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
    """What to compare, and with which settings.

    `models` are of NAMES, and COUNTED come by themselves; `users` are percentages of the users of a domain; `model`,
    `pretraining` and `finetuning` are MMM4Rec's; `baselines` is what differs from their published settings.
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
            raise ConfigError(f"models: none is named; known: {', '.join(NAMES)}")
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}: train at least once")
        for share in self.users:
            if not 0 < share <= 100:
                raise ConfigError(f"users: {share:g} is no percentage above 0 and up to 100")

    @property
    def pretrained(self) -> list[str]:
        """The models of these that start from a pre-trained one."""
        return [name for name in self.models if name in OURS and OURS[name][0]]


@dataclass(frozen=True)
class Source:
    """A domain to be loaded when it is needed, and what says whether it is still the same."""

    name: str
    load: Callable[[], DomainData]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Keeping:
    """Where a comparison keeps what it is made of, and what else decides it; all may be deleted at any time."""

    results: Path
    """Folder for what came of trainings, and for pre-trained models."""
    trainings: Path
    """Folder of `train_once`, which holds the trainings of runs, too."""
    trains: Code = lambda config: ""
    """The version of the code that trains a model."""
    tests: Code = lambda config: ""
    """The version of the code that prepares a comparison's data, trains a model and tests it."""


@dataclass(frozen=True)
class Run:
    """One training of a comparison; a model that is counted has neither seed nor training."""

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
        """What runs of several seeds have in common."""
        return self.part, self.model, self.percent


@dataclass(frozen=True)
class Finished:
    """A run and what came of it on a domain."""

    run: Run
    ranks: npt.NDArray[np.float64]
    """[U] of the test labels, in the same order of users for all runs of a domain."""
    lists: dict[str, float]
    """What the metrics of lists say of the test lists: {coverage_10: ...}."""
    validation: dict[str, float]
    """Of the weights tested: {ndcg_10: ...}."""
    cost: dict[str, Any]
    """Columns of `costs`; empty for a model that is counted."""
    curve: list[dict[str, Any]]
    """A row an epoch, from the one before training on; columns of `curves`."""

    @property
    def trained_to_end(self) -> bool:
        """Whether the model was given the time that it needs: more epochs made it no better than the one that is kept,
        and it took ENOUGH_STEPS. A model that is counted needs none."""
        training = self.run.training
        return training is None or (
            self.cost["best_epoch"] < training.epochs and self.cost["optimiser_steps"] >= ENOUGH_STEPS
        )


def planned(asked: ComparisonRequest, can_transfer: bool) -> list[Run]:
    """The runs on a domain.

    Raises:
        ConfigError: a model is to be pre-trained, and there is nothing to transfer from.
    """
    if asked.pretrained and not can_transfer:
        raise ConfigError(
            f"models: {', '.join(asked.pretrained)}: nothing is pre-trained, since there is no source domain and no "
            "checkpoint to start from: leave them out, or give one"
        )
    names = [name for name in BASELINES if name in asked.models or name in COUNTED]
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
    """Train and test what is asked for on a target domain; the finished runs.

    Args:
        target: the domain to compare on.
        sources: domains to pre-train on together.
        asked: what to compare.
        keeping: where what is finished is kept, and what is unfinished.
        given: a checkpoint and its sha256, in place of pre-training.
        progress: called with (done, total), in thousandths of a training.

    Raises:
        ConfigError: as `planned`.
        ModelError: as `training.fit` and `share_of_users`; what has been finished by then is kept.
    """
    runs = planned(asked, can_transfer=given is not None or bool(sources))
    domain = target.load()
    for percent in {run.percent for run in runs}:
        share_of_users(domain, percent)  # what cannot be done is said before hours are spent on the rest
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
    more = {name: value for name, value in special.items() if value is not None}  # none: as a run trains it
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

    # Weights go when what came of them is kept, and not before.
    results = keep(keeping.results, {"training": recipe.decisive, "code": keeping.tests(config)}, test)
    with ExitStack() as weights, results as folder:
        ranks = pq.ParquetFile(folder / "ranks.parquet").read()["rank"].to_numpy()
        return Finished(run, ranks, **json.loads((folder / "run.json").read_text(encoding="utf-8")))


def _record(trained: Path) -> dict[str, Any]:
    """The fields of `Finished` that a training gives."""
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
