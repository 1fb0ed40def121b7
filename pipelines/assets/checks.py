"""Asset checks that warn: properties of published artifacts that people should know about.

Blocking checks are part of the steps (`pipelines.planner.blocking`, `pipelines.planner.step`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from mmm4rec.baselines.config import BASELINES
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import DOMAINS
from pipelines.planner.event_log import disagreements

_COVERED = 0.5
"""Below this share of items, a modality tells more about missing data than about the items."""


def _coverage(key: str, covered: Callable[[Mapping[str, Any]], int]) -> dg.AssetChecksDefinition:
    """Warns if most items lack a modality that the domain's models should learn from."""

    @dg.asset_check(
        asset=dg.AssetKey(key.split("/")),
        name="coverage",
        description=f"At least {_COVERED:.0%} of the items have this modality, or the kind of its encoder is none.",
        partitions_def=DOMAINS,
    )
    def coverage(
        context: dg.AssetCheckExecutionContext, data_folder: dg.ResourceParam[DataFolder]
    ) -> dg.AssetCheckResult:
        settings = data_folder.settings.domain(context.partition_key)
        encoder = settings.image_encoder if "image" in key else settings.text_encoder
        summary: dict[str, Any] = data_folder.store.require(key, context.partition_key).manifest.summary
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
def model_beats_popularity(
    context: dg.AssetCheckExecutionContext, data_folder: dg.ResourceParam[DataFolder]
) -> dg.AssetCheckResult:
    """The domain's best model (not counting baselines) ranks the test items better than popularity."""
    summary: dict[str, Any] = data_folder.store.require("reports/metrics", context.partition_key).manifest.summary
    ndcg: dict[str, float] = summary["ndcg_10"]
    best = max(value for model, value in ndcg.items() if model not in {"popularity", *BASELINES})
    return dg.AssetCheckResult(
        passed=best > ndcg["popularity"], severity=dg.AssetCheckSeverity.WARN, metadata=dict(ndcg)
    )


@dg.asset_check(asset=dg.AssetKey(["core", "sequences"]), partitions_def=DOMAINS)
def matches_published_statistics(
    context: dg.AssetCheckExecutionContext, data_folder: dg.ResourceParam[DataFolder]
) -> dg.AssetCheckResult:
    """A published domain has the published numbers of users, items and interactions."""
    published = data_folder.settings.domain(context.partition_key).published
    summary: dict[str, Any] = data_folder.store.require("core/sequences", context.partition_key).manifest.summary
    known = asdict(published) if published else {}
    differing = {
        name: f"{summary[name]} (published: {count})" for name, count in known.items() if summary[name] != count
    }
    return dg.AssetCheckResult(passed=not differing, severity=dg.AssetCheckSeverity.WARN, metadata=differing)


@dg.asset_check(asset=dg.AssetKey(["warehouse", "catalogue"]))
def store_catalogue_and_event_log_agree(
    context: dg.AssetCheckExecutionContext, data_folder: dg.ResourceParam[DataFolder]
) -> dg.AssetCheckResult:
    """The catalogue and the last materialisation in Dagster's event log show the current version of each asset."""
    found = disagreements(data_folder, context.instance)
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"disagreements": len(found), "examples": "; ".join(found[:5]) or "none"},
    )
