"""Models side by side: which trainings a comparison is made of, their running, and the tables of what came out.

All models of a domain have the same users, items, features, budget and evaluation. **Every choice is made on
validation** (which epoch, which model is the best); the test labels are ranked once for each finished training.

A training is kept under a digest of all that decides it (versions of the data and the code, config, seed, initial
weights), so a comparison that was stopped goes on, and another one trains only what is new. Of a model that was
tested, the ranks and the curve are kept, not the weights.

A model that learns from a share of the users (`mmm4rec.subsets`) is validated on it alone, and tested on all users of
the domain: the same ones for every share.

No drawing and no page here, and no files but the kept trainings and the tables.
"""

import fcntl
import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmm4rec import memory
from mmm4rec.ablations import AblationConfig
from mmm4rec.baselines import item_knn, popularity
from mmm4rec.baselines.config import BASELINES, ITEM_KNN, BaselineSettings, ItemKNNConfig, resolve
from mmm4rec.checkpoint import load_model
from mmm4rec.config import CUTOFFS, ModelConfig, RecommenderConfig, TrainConfig, nearest
from mmm4rec.data import DomainData
from mmm4rec.errors import ConfigError
from mmm4rec.evaluation import NEAR_BEST, rank_labels
from mmm4rec.registry import stated
from mmm4rec.reports import SPLITS
from mmm4rec.significance import paired_p
from mmm4rec.subsets import Modality, share_of_users, without
from mmm4rec.tables import COMPARISON, TABLES, write_table
from mmm4rec.training import Epoch, TrainSummary, fit, pretrain

Progress = Callable[[int, int], None]

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
PAIRS: Final = (("finetuned", FULL), ("finetuned_without_id", "scratch_without_id"))
"""A pre-trained model, and the same from scratch."""
SIGNIFICANT: Final = 0.05


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
class Asked:
    """What to compare, and with which settings.

    `models` are of NAMES; `users` are percentages of the users of a domain; `model`, `pretraining` and `finetuning`
    are MMM4Rec's; `baselines` is what differs from their published settings.
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
class ComparisonSummary:
    """What was compared, and on what."""

    users: int
    items: int
    interactions: int
    trainings: int
    best: str
    """The model with the best validation NDCG@10."""


@dataclass(frozen=True)
class Finished:
    """A run and what came of it on a domain."""

    run: Run
    ranks: npt.NDArray[np.float64]
    """[U] of the test labels, in the same order of users for all runs of a domain."""
    validation: dict[str, float]
    """Of the weights tested: {ndcg_10: ...}."""
    cost: dict[str, Any]
    """Columns of `costs`; empty for a model that is counted."""
    curve: list[dict[str, Any]]
    """A row an epoch, from the one before training on; columns of `curves`."""


def planned(asked: Asked, can_transfer: bool) -> list[Run]:
    """The runs on a domain.

    Raises:
        ConfigError: a model is to be pre-trained, and there is nothing to transfer from.
    """
    if asked.pretrained and not can_transfer:
        raise ConfigError(
            f"models: {', '.join(asked.pretrained)}: nothing is pre-trained, since there is no source domain and no "
            "checkpoint to start from: leave them out, or give one"
        )
    runs = [Run("models", POPULARITY)] if POPULARITY in asked.models else []
    given = {name: asked.baselines.get(name, BaselineSettings()) for name in asked.models if name in BASELINES}
    baselines = resolve(given, asked.finetuning, asked.model.length)
    if baselines.item_knn:
        runs.append(Run("models", ITEM_KNN, config=baselines.item_knn))
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


def build_comparison(
    target: Source,
    sources: Sequence[Source],
    asked: Asked,
    cache: Path,
    out: Path,
    *,
    given: tuple[Path, str] | None = None,
    progress: Progress | None = None,
) -> ComparisonSummary:
    """`compare`, and write the tables of it to the folder `out`: comparison.parquet, tests, curves, costs."""
    domain = target.load()
    runs = compare(replace(target, load=lambda: domain), sources, asked, cache, given=given, progress=progress)
    for stem, rows in tables(runs).items():
        write_table(rows, f"{COMPARISON}/{stem}", out / f"{stem}.parquet")
    return ComparisonSummary(
        domain.user_count,
        domain.item_count,
        len(domain.items),
        sum(1 for one in runs if one.cost),
        best_on_validation(runs)[1],
    )


def compare(
    target: Source,
    sources: Sequence[Source],
    asked: Asked,
    cache: Path,
    *,
    given: tuple[Path, str] | None = None,
    progress: Progress | None = None,
) -> list[Finished]:
    """Train and test what is asked for on a target domain; the finished runs.

    Args:
        target: the domain to compare on.
        sources: domains to pre-train on together.
        asked: what to compare.
        cache: folder for the kept trainings; it may be deleted at any time.
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
        starts[seed] = _pretrained(sources, asked.model, replace(asked.pretraining, seed=seed), cache, shown)
        done += 1000
        shown(0, 1)
    found = []
    for run in runs:
        start = starts[run.seed] if run.pretrained and run.seed is not None else None
        found.append(_finished(target, domain, run, start, cache, shown))
        done += 1000
        shown(0, 1)
    return found


def _kept(cache: Path, decisive: Mapping[str, object], build: Callable[[Path, Path], None]) -> Path:
    """The folder that `build(folder, folder for an unfinished training)` has filled, now or before."""
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]
    place = cache / digest
    finished = place / "finished"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another comparison may be at it: then this one takes what that one makes
        if not finished.exists():
            made = place / "made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            build(made, place / "unfinished")
            made.rename(finished)
            shutil.rmtree(place / "unfinished", ignore_errors=True)
    return finished


def _pretrained(
    sources: Sequence[Source], model: ModelConfig, training: TrainConfig, cache: Path, progress: Progress
) -> tuple[Path, str]:
    """The pre-trained checkpoint and its sha256."""
    decisive = {
        "data": {source.name: dict(source.versions) for source in sources},
        "model": stated(model),
        "training": asdict(training),
    }

    def build(made: Path, unfinished: Path) -> None:
        pretrain([source.load() for source in sources], model, training, made, state=unfinished, progress=progress)

    folder = _kept(cache, decisive, build)
    return folder, hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _finished(
    target: Source, domain: DomainData, run: Run, start: tuple[Path, str] | None, cache: Path, progress: Progress
) -> Finished:
    config, training = run.config, run.training
    if training is None or not isinstance(config, RecommenderConfig):
        return _counted(domain, run)
    decisive = {
        "data": {target.name: dict(target.versions)},
        "model": stated(config),
        "training": asdict(training),
        "init": start and start[1],
        "users": run.percent,
        "lacks": run.lacks,
    }

    def build(made: Path, unfinished: Path) -> None:
        seconds = _Seconds(unfinished / "seconds.json")
        whole = without(domain, run.lacks)
        learnt = share_of_users(whole, run.percent)
        memory.forget_peak()
        summary = fit(
            learnt,
            config,
            training,
            made,
            init=start and start[0],
            state=unfinished / "state",
            on_epoch=seconds,
            progress=progress,
        )
        peak = memory.peak_bytes(summary.device)
        ranks = rank_labels(load_model(made, whole, training.ssd_form), whole, "test").ranks
        pq.write_table(pa.table({"rank": ranks.numpy()}), made / "ranks.parquet")
        record = {"cost": _cost(summary, peak), "validation": summary.validation, "seconds": seconds.by_epoch}
        (made / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for weights in ("model.safetensors", "items.parquet"):
            (made / weights).unlink(missing_ok=True)

    folder = _kept(cache, decisive, build)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    curve = [
        {name: row[name] for name in ("epoch", "optimiser_steps", "examples", "loss", "ndcg_10")}
        | {"seconds": record["seconds"].get(str(row["epoch"]))}
        for row in pq.ParquetFile(folder / "history.parquet").read().to_pylist()
    ]
    ranks = pq.ParquetFile(folder / "ranks.parquet").read()["rank"].to_numpy()
    return Finished(run, ranks, record["validation"], record["cost"], curve)


def _counted(domain: DomainData, run: Run) -> Finished:
    config = run.config
    if isinstance(config, ItemKNNConfig):
        known = item_knn.neighbours(domain, config.neighbours)
        validation, test = (item_knn.rank_labels(domain, split, known, config.length) for split in SPLITS)
    else:
        validation, test = (popularity.rank_labels(domain, split) for split in SPLITS)
    return Finished(run, test.ranks.numpy(), validation.metrics().flat(), {}, [])


class _Seconds:
    """Wall-clock time by epoch, which `history` has not; on disk, since a training may take several runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_epoch: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def __call__(self, epoch: Epoch) -> None:
        self.by_epoch[str(epoch.epoch)] = epoch.seconds
        self.file.parent.mkdir(parents=True, exist_ok=True)
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(self.by_epoch), encoding="utf-8")
        written.replace(self.file)


def _cost(summary: TrainSummary, peak: int | None) -> dict[str, Any]:
    names = [field.name for field in TABLES[f"{COMPARISON}/costs"] if hasattr(summary, field.name)]
    return {name: getattr(summary, name) for name in names} | {"peak_bytes": peak}


# What came out


def gains(ranks: npt.NDArray[np.float64], metric: str, k: int) -> npt.NDArray[np.float64]:
    """What each user [U] adds to HR@k or NDCG@k; the metric is the mean."""
    return np.where(ranks <= k, 1.0 if metric == "HR" else 1 / np.log2(1 + ranks), 0.0)


def by_key(runs: Sequence[Finished]) -> dict[tuple[str, str, float], list[Finished]]:
    """The seeds of each model together."""
    found: dict[tuple[str, str, float], list[Finished]] = {}
    for finished in runs:
        found.setdefault(finished.run.key, []).append(finished)
    return found


def _of_users(seeds: Sequence[Finished], metric: str = "NDCG", k: int = 10) -> npt.NDArray[np.float64]:
    """[U] the mean over the seeds."""
    mean: npt.NDArray[np.float64] = np.mean([gains(one.ranks, metric, k) for one in seeds], axis=0)
    return mean


def best_on_validation(runs: Sequence[Finished]) -> tuple[str, str, float]:
    """The key of the model with the best mean validation NDCG@10, of those trained on all users."""
    whole = {key: seeds for key, seeds in by_key(runs).items() if key[0] == "models" and key[2] == 100}
    return max(whole, key=lambda key: statistics.mean(one.validation.get("ndcg_10", -math.inf) for one in whole[key]))


def accuracy_rows(runs: Sequence[Finished]) -> Iterator[dict[str, object]]:
    """Rows of `comparison`: the accuracy of every model."""
    for (part, model, percent), seeds in by_key(runs).items():
        for metric in ("HR", "NDCG"):
            for k in CUTOFFS:
                users = _of_users(seeds, metric, k)
                means = [float(gains(one.ranks, metric, k).mean()) for one in seeds]
                yield {
                    "part": part,
                    "model": model,
                    "percent": percent,
                    "metric": metric,
                    "k": k,
                    "value": float(users.mean()),
                    "standard_error": float(users.std(ddof=1)) / len(users) ** 0.5 if len(users) > 1 else 0.0,
                    "seed_deviation": statistics.stdev(means) if len(means) > 1 else None,
                    "seeds": len(seeds),
                    "users": len(users),
                }


def paired_rows(runs: Sequence[Finished]) -> Iterator[dict[str, object]]:
    """Rows of `tests`."""
    found = by_key(runs)
    best = best_on_validation(runs)
    for key in found:
        if key[0] == "models" and key[2] == 100 and key != best:
            yield _tested("best", found, key, best)
    for key in found:
        if key[0] == "ablations":
            yield _tested("ablation", found, key, ("models", FULL, 100.0))
    for ours, theirs in PAIRS:
        for key in sorted(found, key=lambda key: key[2]):
            other = ("models", theirs, key[2])
            if key[:2] == ("models", ours) and other in found:
                yield _tested("transfer", found, key, other) | speed(found[key], found[other])


def _tested(
    question: str,
    found: Mapping[tuple[str, str, float], Sequence[Finished]],
    key: tuple[str, str, float],
    other: tuple[str, str, float],
) -> dict[str, object]:
    ours, theirs = _of_users(found[key]), _of_users(found[other])
    difference, p = float((ours - theirs).mean()), paired_p(ours, theirs)
    return {
        "question": question,
        "model": key[1],
        "against": other[1],
        "percent": key[2],
        "difference": difference,
        "p": p,
        "verdict": "no difference shown" if p >= SIGNIFICANT else "better" if difference > 0 else "worse",
        "users": len(ours),
        "reached": None,
        "steps_share": None,
    }


def speed(ours: Sequence[Finished], theirs: Sequence[Finished]) -> dict[str, object]:
    """In how many seeds ours reaches 95% of the best validation of theirs, and after which share of the optimiser
    steps that theirs takes to its best (mean over those)."""
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        best = max(other.curve, key=_value)
        steps = next((row["optimiser_steps"] for row in one.curve if _value(row) >= NEAR_BEST * _value(best)), None)
        if steps is not None and best["optimiser_steps"]:
            shares.append(steps / best["optimiser_steps"])
    return {"reached": len(shares), "steps_share": statistics.mean(shares) if shares else None}


def _value(row: Mapping[str, Any]) -> float:
    return -math.inf if row["ndcg_10"] is None else float(row["ndcg_10"])


def tables(runs: Sequence[Finished]) -> dict[str, list[dict[str, object]]]:
    """The rows of each table of a comparison, by file stem."""
    rows: dict[str, list[dict[str, object]]] = {
        "comparison": list(accuracy_rows(runs)),
        "tests": list(paired_rows(runs)),
        "curves": [],
        "costs": [],
    }
    for one in runs:
        whose = {name: getattr(one.run, name) for name in ("part", "model", "percent", "seed")}
        rows["curves"].extend(whose | row for row in one.curve)
        if training := one.run.training:
            how = {"learning_rate": training.learning_rate, "batch": training.batch_size * training.accumulate}
            rows["costs"].append(whose | how | one.cost | {"validation_ndcg_10": one.validation.get("ndcg_10")})
    return rows
