"""The results of a comparison as tables: accuracy with errors, paired tests, curves and costs.

**Validation decides which model is the best**; all other figures use the test labels. Errors and tests are over users,
each with the mean of their seeds. A metric that is not a mean over users has neither. If one of two models was not
trained to its end, their difference says nothing about them, so there is no p.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmm4rec.comparison.significance import paired_p
from mmm4rec.comparison.trainings import FULL, Finished
from mmm4rec.evaluation.convergence import first_near_best
from mmm4rec.metrics import UserMetric, figures, of_users
from mmm4rec.tables import COMPARISON, write_table

PAIRS: Final = (("finetuned", FULL), ("finetuned_without_id", "scratch_without_id"))
"""Pairs of a pre-trained model and the same model from scratch."""
SIGNIFICANT: Final = 0.05
UNTRAINED: Final = "not trained to its end"
"""The verdict if one of two models was not trained to its end, in any of its seeds."""


@dataclass(frozen=True)
class ComparisonSummary:
    """The summary of a comparison."""

    trainings: int
    best: str
    """The model with the best validation NDCG@10."""


def write_comparison(runs: Sequence[Finished], out: Path) -> ComparisonSummary:
    """Write the tables to the folder `out`: comparison.parquet, tests, curves, costs."""
    for stem, rows in tables(runs).items():
        write_table(rows, f"{COMPARISON}/{stem}", out / f"{stem}.parquet")
    return ComparisonSummary(sum(1 for one in runs if one.cost), best_on_validation(runs)[1])


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
            how = {"learning_rate": training.learning_rate, "trained_to_end": one.trained_to_end}
            rows["costs"].append(whose | how | one.cost | {"validation_ndcg_10": one.validation.get("ndcg_10")})
    return rows


def gains(ranks: npt.NDArray[np.float64], label: str, k: int) -> npt.NDArray[np.float64]:
    """The contribution of each user [U] to HR@k, NDCG@k or another metric of users. The metric is their mean."""
    metric = next(metric for metric in of_users() if metric.label == label)
    return np.asarray(metric.gain(ranks, k), np.float64)


def by_key(runs: Sequence[Finished]) -> dict[tuple[str, str, float], list[Finished]]:
    """The runs of each model, all seeds together."""
    found: dict[tuple[str, str, float], list[Finished]] = {}
    for finished in runs:
        found.setdefault(finished.run.key, []).append(finished)
    return found


def trained_to_end(seeds: Sequence[Finished]) -> bool:
    """Whether a model was trained to its end, in each of its seeds."""
    return all(one.trained_to_end for one in seeds)


def _of_users(seeds: Sequence[Finished], metric: str = "NDCG", k: int = 10) -> npt.NDArray[np.float64]:
    """[U] The mean over the seeds."""
    mean: npt.NDArray[np.float64] = np.mean([gains(one.ranks, metric, k) for one in seeds], axis=0)
    return mean


def best_on_validation(runs: Sequence[Finished]) -> tuple[str, str, float]:
    """The key of the model with the best mean validation NDCG@10, of those trained on all users."""
    whole = {key: seeds for key, seeds in by_key(runs).items() if key[0] == "models" and key[2] == 100}
    return max(whole, key=lambda key: statistics.mean(one.validation.get("ndcg_10", -math.inf) for one in whole[key]))


def accuracy_rows(runs: Sequence[Finished]) -> Iterator[dict[str, object]]:
    """Rows of `comparison`: the accuracy of every model."""
    for (part, model, percent), seeds in by_key(runs).items():
        for metric, k in figures():
            error = None
            if isinstance(metric, UserMetric):
                users = _of_users(seeds, metric.label, k)
                value = float(users.mean())
                error = float(users.std(ddof=1)) / len(users) ** 0.5 if len(users) > 1 else 0.0
                by_seed = [float(gains(one.ranks, metric.label, k).mean()) for one in seeds]
            else:
                by_seed = [one.lists[metric.column(k)] for one in seeds]
                value = statistics.mean(by_seed)
            yield {
                "part": part,
                "model": model,
                "percent": percent,
                "metric": metric.label,
                "k": k,
                "value": value,
                "standard_error": error,
                "seed_deviation": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
                "seeds": len(seeds),
                "users": len(seeds[0].ranks),
                "trained_to_end": trained_to_end(seeds),
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
    difference, p, verdict = float((ours - theirs).mean()), None, UNTRAINED
    if trained_to_end(found[key]) and trained_to_end(found[other]):
        p = paired_p(ours, theirs)
        verdict = "no difference shown" if p >= SIGNIFICANT else "better" if difference > 0 else "worse"
    return {
        "question": question,
        "model": key[1],
        "against": other[1],
        "percent": key[2],
        "difference": difference,
        "p": p,
        "verdict": verdict,
        "users": len(ours),
        "reached": None,
        "steps_share": None,
    }


def speed(ours: Sequence[Finished], theirs: Sequence[Finished]) -> dict[str, object]:
    """The number of seeds in which our model reaches 95% of the best validation of the other model, and the share of
    the other's optimiser steps to its best that this takes (mean over these seeds)."""
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        best = max(other.curve, key=_value)
        place = first_near_best([row["ndcg_10"] for row in one.curve], best["ndcg_10"])
        if place is not None and best["optimiser_steps"]:
            shares.append(one.curve[place]["optimiser_steps"] / best["optimiser_steps"])
    return {"reached": len(shares), "steps_share": statistics.mean(shares) if shares else None}


def _value(row: Mapping[str, Any]) -> float:
    return -math.inf if row["ndcg_10"] is None else float(row["ndcg_10"])
