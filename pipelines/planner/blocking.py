"""Blocking checks: conditions that a step's tables must meet before they are published.

At the end of its build, a step counts the violations of its check. If the check fails, the tables are not published, so
nothing reads them and the next run builds and checks them again: docs/decisions/0013. Checks that only warn are in
`pipelines.assets.checks`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmm4rec.metrics import METRICS, figures
from warehouse.artifacts.store import Artifact
from warehouse.errors import DataError

__all__ = ["CHECKS", "Check", "CheckError"]

Facts = Mapping[str, Any]


class CheckError(DataError):
    """A check failed. `counts`: the number of violations of each of its properties."""

    def __init__(self, message: str, counts: Mapping[str, int]) -> None:
        super().__init__(message)
        self.counts = counts


@dataclass(frozen=True)
class Check:
    """SQL that counts violations of the properties of a step's tables.

    `tables` maps each table parameter of the statement to a Parquet file: ``layer/noun/stem`` of the step or of one of
    its inputs. `bound` computes the other parameters from the summary and the parameters of the step.
    """

    name: str
    statement: str
    description: str
    tables: Mapping[str, str]
    bound: Callable[[Facts, Facts], Facts] = lambda summary, parameters: {}

    def count(
        self, key: str, made: Path | Artifact, inputs: Sequence[Artifact], summary: Facts, parameters: Facts
    ) -> dict[str, int]:
        """The number of violations of each property in `made`, a version of `key` or the folder of its build from
        `inputs`."""
        places: dict[str, Path | Artifact] = {**{artifact.key: artifact for artifact in inputs}, key: made}
        files = {}
        for name, table in self.tables.items():
            of, stem = table.rsplit("/", 1)
            place, file = places[of], f"{stem}.parquet"
            files[name] = place.file(file) if isinstance(place, Artifact) else place / file
        from warehouse.checks import violations  # imported here, so that looking for stale steps loads no engine

        return violations(self.statement, files, **self.bound(summary, parameters))


def _lines(noun: str) -> Check:
    return Check(
        "every_line_accounted_for",
        "check_raw",
        "Every line of the raw file is either a row of the table or in quarantine, and never both.",
        {"rows": f"raw/{noun}/{noun}", "quarantine": f"raw/{noun}/quarantine"},
        lambda summary, parameters: {"lines": summary["lines"]},
    )


def _rows(noun: str) -> Check:
    return Check(
        "every_item_once",
        "check_features",
        "Every item of the sequences has exactly one row.",
        {"features": f"features/{noun}/{noun}", "items": "core/sequences/items"},
    )


def _vectors(noun: str, encoded: str) -> Check:
    return Check(
        "every_item_once_and_finite",
        "check_vectors",
        "Every item of the sequences has exactly one vector. It is finite, and it is zero if and only if the item "
        "lacks this modality. All other vectors have length 1 if the encoder normalises its vectors.",
        # The encoder's input has every item of the sequences exactly once: its own check ensures that.
        {"vectors": f"features/{noun}/{noun}", "items": f"features/{encoded}/{encoded}"},
        lambda summary, parameters: {"normalised": summary["encoder"]["normalised"]},
    )


def _declared(summary: Facts, parameters: Facts) -> Facts:
    """Every metric at each of its cut-offs, and the metrics that grow with the cut-off."""
    declared = [(metric.label, k) for metric, k in figures()]
    return {
        "metrics": [label for label, _ in declared],
        "cutoffs": [k for _, k in declared],
        "growing": [metric.label for metric in METRICS if metric.grows_with_k],
    }


def _asked_of_sequences(summary: Facts, parameters: Facts) -> Facts:
    """What the parameters asked for. The summary says what was done, so it cannot show that something else was done."""
    rule = parameters["split"]
    return {
        "k": parameters["k"],
        "max_length": parameters["max_length"],
        "split": rule["name"],
        "validation_from": rule.get("validation_from"),
        "test_from": rule.get("test_from"),
    }


CHECKS: Mapping[str, Check] = {
    "raw/ratings": _lines("ratings"),
    "raw/metadata": _lines("metadata"),
    "core/items": Check(
        "ids_unique_and_rows_accounted_for",
        "check_items",
        "Every metadata row is an item or a rejected row. Item ids are unique.",
        {"items": "core/items/items", "rejected": "core/items/rejected", "metadata": "raw/metadata/metadata"},
    ),
    "core/interactions": Check(
        "ids_unique_and_rows_accounted_for",
        "check_interactions",
        "Every rating is an interaction or a rejected row. Interactions are unique, and their items exist.",
        {
            "interactions": "core/interactions/interactions",
            "rejected": "core/interactions/rejected",
            "ratings": "raw/ratings/ratings",
            "items": "core/items/items",
        },
    ),
    "core/sequences": Check(
        "k_core_order_and_splits",
        "check_sequences",
        "Every user and every item has at least k interactions. Each sequence is in the order of time, without gaps. "
        "No interaction for validation or testing comes before one of an earlier part.",
        {"interactions": "core/sequences/interactions"},
        _asked_of_sequences,
    ),
    "features/item_text": _rows("item_text"),
    "features/item_images": _rows("item_images"),
    "features/text_embeddings": _vectors("text_embeddings", "item_text"),
    "features/image_embeddings": _vectors("image_embeddings", "item_images"),
    "reports/metrics": Check(
        "every_metric_within_bounds",
        "check_metrics",
        "Every model has every metric, with a value from 0 to 1. A metric that can only grow with k never falls.",
        {"figures": "reports/metrics/metrics"},
        _declared,
    ),
    "reports/recommendations": Check(
        "everybody_served_and_nothing_twice",
        "check_recommendations",
        "Every model recommends the requested number of items to every user, or as many as are left. The items are "
        "ranked, none is repeated, and none is one that the user already has (unless the settings include those).",
        {
            "recommendations": "reports/recommendations/recommendations",
            "interactions": "core/sequences/interactions",
            "items": "core/sequences/items",
        },
        lambda summary, parameters: {name: parameters[name] for name in ("k", "exclude_seen")},
    ),
}
"""The checks, by the key of the step."""
