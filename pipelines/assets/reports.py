"""Layer reports: the metrics of each model, and the recommendations of the model that is best on validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmm4rec.baselines.config import ITEM_KNN, ItemKNNConfig
from mmm4rec.config import RecommendationConfig
from mmm4rec.registry import COUNTED
from pipelines.assets.models import (
    DATA,
    baseline_models,
    domain_data,
    has_baselines,
    has_pretrained,
    is_given,
    is_target,
    our_model,
)
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import Job, Ref, same_domain, step
from warehouse.artifacts.store import ALL


def models_of(data_folder: DataFolder, domain: str) -> list[Ref]:
    """The models that are evaluated on a domain. If several are equally good on validation, the last one recommends.

    A target domain has a model from scratch and, if there is a pre-trained model, a fine-tuned one. A source domain has
    the pre-trained one.
    """
    if not is_target(data_folder, domain):
        return [("models/pretrained", ALL)]
    finetuned = [("models/finetuned", domain)] if has_pretrained(data_folder, domain) else []
    return [("models/scratch", domain), *finetuned]


def is_judged(data_folder: DataFolder, domain: str) -> bool:
    """Whether a domain has a model. A source domain has none if the settings name a pre-trained checkpoint."""
    return is_target(data_folder, domain) or not is_given(data_folder)


def _refs(data_folder: DataFolder, domain: str) -> list[Ref]:
    return [*same_domain(*DATA)(data_folder, domain), *models_of(data_folder, domain)]


def _checkpoints(job: Job[Any]) -> dict[str, Path]:
    """The folders of the domain's models, in the order of `models_of`."""
    models = (artifact for artifact in job.inputs if artifact.key.startswith("models/"))
    return {artifact.key.split("/")[1]: artifact.path for artifact in models if artifact.key != "models/baselines"}


def _compared(data_folder: DataFolder, domain: str) -> list[Ref]:
    """The models that the metrics cover: the models of the domain and its baselines."""
    return [
        *_refs(data_folder, domain),
        *([("models/baselines", domain)] if has_baselines(data_folder, domain) else []),
    ]


@dataclass(frozen=True)
class Beside:
    """The baselines beside MMM4Rec: the trained ones by name, and the one that only counts."""

    trained: tuple[str, ...]
    item_knn: ItemKNNConfig | None


def _beside(data_folder: DataFolder, domain: str) -> Beside:
    asked = data_folder.settings.asked
    return Beside(tuple(asked.trained), asked.item_knn) if is_target(data_folder, domain) else Beside((), None)


def _judged(data_folder: DataFolder, domain: str) -> list[str]:
    """The implementations of the models that the metrics cover."""
    baselines = baseline_models(data_folder, domain) if has_baselines(data_folder, domain) else []
    counted = [COUNTED[ITEM_KNN]] if _beside(data_folder, domain).item_knn else []
    return [*our_model(data_folder, domain), *baselines, *counted]


@step(
    "reports/metrics",
    "mmm4rec",
    upstream=[*DATA, "models/pretrained", "models/scratch", "models/finetuned", "models/baselines"],
    refs=_compared,
    applies=is_judged,
    parameters=_beside,
    implementations=_judged,
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def metrics(job: Job[Beside]) -> Any:
    """The metrics of popularity, the requested baselines and every model of the domain, ranked over all its items."""
    from mmm4rec.reports import build_metrics

    of, checkpoints = job.parameters, _checkpoints(job)
    if of.trained:
        folder = job.input("models/baselines").path
        checkpoints |= {name: folder / f"{name}.safetensors" for name in of.trained}
    return build_metrics(domain_data(job, job.domain), checkpoints, job.out, progress=job.progress, knn=of.item_knn)


@step(
    "reports/recommendations",
    "mmm4rec",
    upstream=[*DATA, "models/pretrained", "models/scratch", "models/finetuned"],
    refs=_refs,
    applies=is_judged,
    parameters=lambda data_folder, domain: data_folder.settings.recommendations,
    implementations=our_model,
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def recommendations(job: Job[RecommendationConfig]) -> Any:
    """The items that each user is most likely to want next, without items already bought (unless the settings include
    them), from the model that is best on validation or from every model."""
    from mmm4rec.reports import build_recommendations

    return build_recommendations(
        domain_data(job, job.domain),
        _checkpoints(job),
        job.out,
        job.parameters,
        job.progress,
    )
