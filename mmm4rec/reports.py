"""Reports on trained models for a domain: the contents of `reports/metrics` and `reports/recommendations`."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmm4rec.baselines import popularity
from mmm4rec.baselines.config import ITEM_KNN, ItemKNNConfig
from mmm4rec.checkpoint import load_model
from mmm4rec.config import RecommendationConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Split
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.convergence import first_near_best
from mmm4rec.evaluation.ranking import rank_labels
from mmm4rec.evaluation.recommending import recommend, write_recommendations
from mmm4rec.evaluation.results import Metrics, Ranking
from mmm4rec.metrics import CRITERION, SHOWN_AT, column, shown
from mmm4rec.registry import count
from mmm4rec.tables import write_table

SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class TrainingOutcome:
    """How a model was trained: a row of `reports/metrics/outcomes`. Values are None if there was no training."""

    model: str
    parameters: int
    best_epoch: int | None = None
    epochs: int | None = None
    optimiser_steps_to_best: int | None = None
    examples_to_best: int | None = None
    epochs_to_95: int | None = None
    """Epochs until the first one that reaches 95% of the best validation; None if there was no validation."""
    optimiser_steps_to_95: int | None = None
    examples_to_95: int | None = None


@dataclass(frozen=True)
class RecommendationsSummary:
    """The number of recommendations and of users, and the model."""

    model: str
    """The model that is best on validation."""
    validation: dict[str, float]
    """The validation metric of each model, by which the best was chosen. Empty if there is only one model."""
    users: int
    rows: int


def build_metrics(
    domain: DomainData,
    models: Mapping[str, Path],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    knn: ItemKNNConfig | None = None,
) -> Any:
    """Rank with popularity and every model; write `metrics`, `breakdown`, `outcomes` and `curves.parquet`.

    Returns the `summary` of the test figures.

    Args:
        models: checkpoint (folder or file) by model name.
        knn: settings of item-kNN; with them, item-kNN ranks too.
        progress: called with (models done, models).

    Raises:
        ModelError: a checkpoint does not fit the domain, or lacks the record of its training.
    """
    rankings: dict[tuple[str, Split], Ranking] = {
        ("popularity", split): popularity.rank_labels(domain, split) for split in SPLITS
    }
    outcomes = [TrainingOutcome("popularity", parameters=0)]
    if knn is not None:
        rankings |= {(ITEM_KNN, split): ranking for split, ranking in count(ITEM_KNN, domain, knn).items()}
        outcomes.append(TrainingOutcome(ITEM_KNN, parameters=0))
    curves: list[dict[str, object]] = []
    for done, (name, checkpoint) in enumerate(models.items(), start=1):
        model = load_model(checkpoint, domain)
        for split in SPLITS:
            rankings[name, split] = rank_labels(model, domain, split)
        history, record = _training(checkpoint)
        curves.extend({"model": name, **row} for row in history)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        trained = record["training"] or {}  # empty for an adopted model, which was not trained here
        outcomes.append(outcome(name, parameters, history, record["best_epoch"], trained.get("metric", CRITERION)))
        if progress:
            progress(done, len(models))
    write_metrics(rankings, outcomes, out)
    write_table(curves, "reports/metrics/curves", out / "curves.parquet")
    return summary({name: found.metrics() for (name, split), found in rankings.items() if split == "test"})


def write_metrics(
    rankings: Mapping[tuple[str, Split], Ranking], outcomes: Sequence[TrainingOutcome], out: Path
) -> None:
    """Write `metrics`, `breakdown` and `outcomes.parquet` into `out`. The keys of rankings are (model, split)."""
    metrics: list[dict[str, object]] = []
    breakdown: list[dict[str, object]] = []
    for (model, split), found in rankings.items():
        whose = {"model": model, "split": split}
        metrics.extend(whose | row for row in found.metrics().rows())
        for by, low, high, of_class in found.breakdown():
            members = {"breakdown": by, "lowest": low, "highest": high}
            breakdown.extend(whose | members | row for row in of_class.rows())
    write_table(metrics, "reports/metrics/metrics", out / "metrics.parquet")
    write_table(breakdown, "reports/metrics/breakdown", out / "breakdown.parquet")
    write_table([asdict(outcome) for outcome in outcomes], "reports/metrics/outcomes", out / "outcomes.parquet")


def summary(test: Mapping[str, Metrics]) -> Any:
    """The test figures of models as a dataclass: `users`, and for every shown metric a field {model: value}, such as
    `ndcg_10`."""
    columns = [metric.column(SHOWN_AT) for metric in shown()]
    summarised = make_dataclass("MetricsSummary", [*((name, dict[str, float]) for name in columns), ("users", int)])
    figures = {name: {model: found.values[name] for model, found in test.items()} for name in columns}
    return summarised(**figures, users=next(iter(test.values())).users)


def outcome(
    name: str, parameters: int, history: Sequence[Mapping[str, Any]], best_epoch: int, metric: str = CRITERION
) -> TrainingOutcome:
    """The cost of the model `name`, from the rows of its `history`. `metric` (as in the config) decides the best epoch.

    The 95% refers to the best validation of all epochs, which is that of `best_epoch` if the best weights are kept.
    """
    best = next(row for row in history if row["epoch"] == best_epoch)
    near = first_near_best([row[column(metric)] for row in history])
    nearly: Mapping[str, Any] = {} if near is None else history[near]
    return TrainingOutcome(
        name,
        parameters=parameters,
        best_epoch=best_epoch,
        epochs=history[-1]["epoch"],
        optimiser_steps_to_best=best["optimiser_steps"],
        examples_to_best=best["examples"],
        epochs_to_95=nearly.get("epoch"),
        optimiser_steps_to_95=nearly.get("optimiser_steps"),
        examples_to_95=nearly.get("examples"),
    )


def _training(checkpoint: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history and the record beside a checkpoint. If one folder has several models, those of this model."""
    file = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    record_file = file.with_suffix(".json")
    try:
        rows = pq.ParquetFile(file.with_name("history.parquet")).read().to_pylist()
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ModelError(
            f"{checkpoint}: the record of the training cannot be read ({error}): restore history.parquet and "
            f"{record_file.name} beside the weights, or train the model again"
        ) from None
    return [row for row in rows if row.pop("model", file.stem) == file.stem], record


def best_on_validation(models: Mapping[str, Path]) -> tuple[str, dict[str, float]]:
    """The name of the model that is best on validation (the last one of a tie), and the validation value of each.

    The value belongs to the metric that decided which weights were kept. A model that was never validated has no value
    and comes after those that have one.

    Args:
        models: checkpoint (folder or file) by model name.

    Raises:
        ModelError: a checkpoint lacks the record of its training.
    """
    reached = {}
    for name, checkpoint in models.items():
        _, record = _training(checkpoint)
        metric = (record["training"] or {}).get("metric", CRITERION)
        value = record["validation"].get(column(metric))
        if value is not None:
            reached[name] = value
    return max(reversed(list(models)), key=lambda name: reached.get(name, -math.inf)), reached


def build_recommendations(
    domain: DomainData,
    models: Mapping[str, Path],
    out: Path,
    asked: RecommendationConfig,
    progress: Callable[[int, int], None] | None = None,
) -> RecommendationsSummary:
    """Write the best items for every user, from the user's whole history. Uses the model that is best on validation, or
    every model with the best one first.

    Args:
        models: checkpoint (folder or file) by model name. The test labels do not influence which model is best.
        progress: called with (users done, users), for each model.

    Raises:
        ModelError: as `best_on_validation` if there are several models; or a checkpoint does not fit the domain.
    """
    best, reached = best_on_validation(models) if len(models) > 1 else (next(iter(models)), {})
    others = sorted({*models} - {best}) if asked.models == "all" else []
    lists = {
        name: recommend(load_model(models[name], domain), domain, asked.k, asked.exclude_seen, progress)
        for name in (best, *others)
    }
    write_recommendations(lists, out)
    return RecommendationsSummary(best, reached, domain.user_count, sum(table.num_rows for table in lists.values()))
