"""Asset checks: properties of what was published. The structural ones block what is downstream.

That its files match its manifest is checked with every asset by its step itself (`pipelines.step`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from mmm4rec.baselines.config import BASELINES
from pipelines.event_log import disagreements
from pipelines.settings import House, as_parameters, data_folder
from pipelines.step import DOMAINS
from warehouse.checks import violations
from warehouse.store import Artifact

_COVERED = 0.5
"""Share of items below which a modality says more about what is missing than about the items."""


_DESCRIPTIONS = {
    "check_raw": "Every line of the raw file is a row or in quarantine, and never both.",
    "check_items": "Every metadata row is an item or set aside; item ids are unique.",
    "check_interactions": "Every rating is an interaction or set aside; interactions are unique, of items that exist.",
    "check_sequences": (
        "Every user and item has k interactions, order is total in time, and nothing for validation or testing leaks "
        "into the past."
    ),
    "check_features": "Every item of the sequences has one row.",
    "check_vectors": (
        "Every item of the sequences has one vector, finite, zero if and only if it is missing, and of length 1 if its "
        "encoder says so."
    ),
    "check_recommendations": "Every user gets as many items as asked for, ranked, each once, and none already had.",
}
"""What each statement of warehouse/sql counts the violations of, for people."""


def _structural(
    key: str,
    name: str,
    check: str,
    files: Callable[[House, Artifact], Mapping[str, Path]],
    bound: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda manifest: {},
) -> dg.AssetChecksDefinition:
    """A blocking check that counts violations by SQL over `files`; `bound` are its parameters from the manifest."""

    @dg.asset_check(
        asset=dg.AssetKey(key.split("/")),
        name=name,
        description=f"{_DESCRIPTIONS[check]} Each count is of what breaks this.",
        blocking=True,
        partitions_def=DOMAINS,
    )
    def structural(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        house = House(data_folder())
        artifact = house.store.require(key, context.partition_key)
        counts = violations(check, files(house, artifact), **bound(artifact.manifest))
        return dg.AssetCheckResult(passed=not any(counts.values()), metadata=counts)

    return structural


def _beside(**others: str) -> Callable[[House, Artifact], dict[str, Path]]:
    """Files by the parameters that name them: ``layer/noun/stem`` of the same domain, as it is now."""

    def files(house: House, artifact: Artifact) -> dict[str, Path]:
        named = {parameter: table.rsplit("/", 1) for parameter, table in others.items()}
        made = {
            key: artifact if key == artifact.key else house.store.require(key, artifact.domain)
            for key, _ in named.values()
        }
        return {parameter: made[key].path / f"{stem}.parquet" for parameter, (key, stem) in named.items()}

    return files


def _lines(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"lines": manifest["summary"]["lines"]}


def _normalised(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"normalised": manifest["summary"]["encoder"]["normalised"]}


def _core(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest["summary"][name] for name in ("k", "max_length", "split", "validation_from", "test_from")}


ratings_lines, metadata_lines = (
    _structural(
        f"raw/{noun}",
        "every_line_accounted_for",
        "check_raw",
        _beside(rows=f"raw/{noun}/{noun}", quarantine=f"raw/{noun}/quarantine"),
        _lines,
    )
    for noun in ("ratings", "metadata")
)
items = _structural(
    "core/items",
    "ids_unique_and_rows_accounted_for",
    "check_items",
    _beside(items="core/items/items", rejected="core/items/rejected", metadata="raw/metadata/metadata"),
)
interactions = _structural(
    "core/interactions",
    "ids_unique_and_rows_accounted_for",
    "check_interactions",
    _beside(
        interactions="core/interactions/interactions",
        rejected="core/interactions/rejected",
        ratings="raw/ratings/ratings",
        items="core/items/items",
    ),
)
sequences = _structural(
    "core/sequences",
    "k_core_order_and_splits",
    "check_sequences",
    _beside(interactions="core/sequences/interactions"),
    _core,
)
item_text, item_images = (
    _structural(
        f"features/{noun}",
        "every_item_once",
        "check_features",
        _beside(features=f"features/{noun}/{noun}", items="core/sequences/items"),
    )
    for noun in ("item_text", "item_images")
)
text_vectors, image_vectors = (
    _structural(
        f"features/{noun}",
        "every_item_once_and_finite",
        "check_vectors",
        _beside(vectors=f"features/{noun}/{noun}", items="core/sequences/items"),
        _normalised,
    )
    for noun in ("text_embeddings", "image_embeddings")
)
recommendations = _structural(
    "reports/recommendations",
    "everybody_served_and_nothing_twice",
    "check_recommendations",
    _beside(
        recommendations="reports/recommendations/recommendations",
        interactions="core/sequences/interactions",
        items="core/sequences/items",
    ),
    lambda manifest: manifest["parameters"],
)


def _coverage(key: str, covered: Callable[[Mapping[str, Any]], int]) -> dg.AssetChecksDefinition:
    """A warning where most items lack a modality that the domain's models are to learn from."""

    @dg.asset_check(
        asset=dg.AssetKey(key.split("/")),
        name="coverage",
        description=f"At least {_COVERED:.0%} of the items have it, unless the settings do without.",
        partitions_def=DOMAINS,
    )
    def coverage(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        house = House(data_folder())
        settings = house.settings.domain(context.partition_key)
        encoder = settings.image_encoder if "image" in key else settings.text_encoder
        summary: dict[str, Any] = house.store.require(key, context.partition_key).manifest["summary"]
        present = covered(summary)
        share = present / summary["items"]
        return dg.AssetCheckResult(
            passed=encoder.kind == "none" or share >= _COVERED,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"items": summary["items"], "present": present, "share": round(share, 4)},
        )

    return coverage


picture_coverage = _coverage("features/item_images", lambda summary: summary["statuses"].get("ok", 0))
text_vector_coverage = _coverage("features/text_embeddings", lambda summary: summary["items"] - summary["missing"])
image_vector_coverage = _coverage("features/image_embeddings", lambda summary: summary["items"] - summary["missing"])


@dg.asset_check(asset=dg.AssetKey(["reports", "metrics"]), partitions_def=DOMAINS)
def model_beats_popularity(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The domain's best model, baselines left aside, ranks the test items better than popularity does."""
    summary: dict[str, Any] = (
        House(data_folder()).store.require("reports/metrics", context.partition_key).manifest["summary"]
    )
    ndcg: dict[str, float] = summary["ndcg_10"]
    best = max(value for model, value in ndcg.items() if model not in {"popularity", *BASELINES})
    return dg.AssetCheckResult(
        passed=best > ndcg["popularity"], severity=dg.AssetCheckSeverity.WARN, metadata=dict(ndcg)
    )


@dg.asset_check(asset=dg.AssetKey(["core", "sequences"]), partitions_def=DOMAINS)
def matches_published_statistics(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """A published domain has the users, items and interactions that were published for it."""
    house = House(data_folder())
    published = house.settings.domain(context.partition_key).published
    summary: dict[str, Any] = house.store.require("core/sequences", context.partition_key).manifest["summary"]
    known = as_parameters(published) if published else {}
    differing = {
        name: f"{summary[name]} (published: {count})" for name, count in known.items() if summary[name] != count
    }
    return dg.AssetCheckResult(passed=not differing, severity=dg.AssetCheckSeverity.WARN, metadata=differing)


@dg.asset_check(asset=dg.AssetKey(["warehouse", "catalogue"]))
def store_catalogue_and_event_log_agree(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The catalogue shows, and Dagster's event log has as the last of each asset, the version that is current."""
    found = disagreements(House(data_folder()), context.instance)
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"disagreements": len(found), "examples": "; ".join(found[:5]) or "none"},
    )
