"""Asset checks: properties of what was published. The structural ones block what is downstream."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.event_log import disagreements
from pipelines.settings import House, as_parameters, data_folder
from pipelines.step import DOMAINS
from warehouse.checks import violations
from warehouse.store import Artifact

# Checks by partition are a preview in Dagster; they work, and the warning would greet every command.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def _structural(
    key: str, name: str, check: str, files: Callable[[House, Artifact], Mapping[str, Path]], **bound: str
) -> dg.AssetChecksDefinition:
    """A blocking check that counts violations by SQL; `bound` are parameters taken from the artifact's summary."""

    @dg.asset_check(asset=dg.AssetKey(key.split("/")), name=name, blocking=True, partitions_def=DOMAINS)
    def structural(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        house = House(data_folder())
        artifact = house.store.require(key, context.partition_key)
        parameters = {parameter: artifact.manifest["summary"][field] for parameter, field in bound.items()}
        counts = violations(check, files(house, artifact), **parameters)
        return dg.AssetCheckResult(passed=not any(counts.values()), metadata=counts)

    return structural


def _with_quarantine(house: House, artifact: Artifact) -> dict[str, Path]:
    return {"rows": artifact.main, "quarantine": artifact.path / "quarantine.parquet"}


def _interactions(house: House, artifact: Artifact) -> dict[str, Path]:
    return {"interactions": artifact.path / "interactions.parquet"}


def _with_items(house: House, artifact: Artifact) -> dict[str, Path]:
    sequences = house.store.require("core/sequences", artifact.domain)
    return {"vectors": artifact.main, "items": sequences.path / "items.parquet"}


ratings_lines = _structural("raw/ratings", "every_line_accounted_for", "check_raw", _with_quarantine, lines="lines")
metadata_lines = _structural("raw/metadata", "every_line_accounted_for", "check_raw", _with_quarantine, lines="lines")
k_core = _structural(
    "core/sequences",
    "k_core_order_and_splits",
    "check_sequences",
    _interactions,
    **{name: name for name in ("k", "max_length", "split", "validation_from", "test_from")},
)
text_vectors = _structural("features/text_embeddings", "every_item_once_and_finite", "check_vectors", _with_items)
image_vectors = _structural("features/image_embeddings", "every_item_once_and_finite", "check_vectors", _with_items)


@dg.asset_check(asset=dg.AssetKey(["reports", "metrics"]), partitions_def=DOMAINS)
def model_beats_popularity(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The domain's best model ranks the test items better than popularity does."""
    summary: dict[str, Any] = (
        House(data_folder()).store.require("reports/metrics", context.partition_key).manifest["summary"]
    )
    ndcg: dict[str, float] = summary["ndcg_10"]
    best = max(value for model, value in ndcg.items() if model != "popularity")
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
