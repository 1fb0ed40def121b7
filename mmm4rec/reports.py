"""Reports of trained models on a domain: what `reports/metrics` and `reports/recommendations` hold."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from mmm4rec import evaluation
from mmm4rec.baselines import popularity
from mmm4rec.checkpoint import load_model
from mmm4rec.data import DomainData, Split
from mmm4rec.evaluation import Metrics, Outcome
from mmm4rec.tables import write_table

SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class MetricsSummary:
    """Test figures by model."""

    hr_10: dict[str, float]
    ndcg_10: dict[str, float]
    users: int


@dataclass(frozen=True)
class RecommendationsSummary:
    """How many recommendations for how many users."""

    model: str
    users: int
    rows: int


def build_metrics(
    domain: DomainData,
    models: Mapping[str, Path],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> MetricsSummary:
    """Rank with popularity and every model; write `metrics`, `outcomes` and `curves.parquet`.

    Args:
        models: folder of the checkpoint by name.
        progress: called with (models done, models).

    Raises:
        ModelError: a checkpoint does not fit the domain.
    """
    results: dict[tuple[str, Split], Metrics] = {
        ("popularity", split): popularity.evaluate(domain, split) for split in SPLITS
    }
    outcomes = [Outcome("popularity", parameters=0)]
    curves: list[dict[str, object]] = []
    for done, (name, folder) in enumerate(models.items(), start=1):
        model = load_model(folder, domain)
        for split in SPLITS:
            results[name, split] = evaluation.evaluate(model, domain, split)
        history = pq.read_table(folder / "history.parquet").to_pylist()
        curves.extend({"model": name, **row} for row in history)
        record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        best = next(row for row in history if row["epoch"] == record["best_epoch"])
        outcomes.append(
            Outcome(
                name,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                best_epoch=record["best_epoch"],
                epochs=record["epochs"],
                optimiser_steps_to_best=best["optimiser_steps"],
                examples_to_best=best["examples"],
            )
        )
        if progress:
            progress(done, len(models))
    evaluation.write_metrics(results, outcomes, out)
    write_table(curves, "reports/metrics/curves", out / "curves.parquet")
    test = {name: metrics for (name, split), metrics in results.items() if split == "test"}
    return MetricsSummary(
        hr_10={name: metrics.hr[10] for name, metrics in test.items()},
        ndcg_10={name: metrics.ndcg[10] for name, metrics in test.items()},
        users=test["popularity"].users,
    )


def build_recommendations(
    domain: DomainData,
    model: tuple[str, Path],
    out: Path,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> RecommendationsSummary:
    """Write the `k` best items for every user, from their whole history, by the model (name, checkpoint folder)."""
    name, folder = model
    table = evaluation.recommend(load_model(folder, domain), domain, k, exclude_seen, progress)
    evaluation.write_recommendations(table, out)
    return RecommendationsSummary(model=name, users=domain.user_count, rows=table.num_rows)
