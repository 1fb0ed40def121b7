"""Layer reports: how good each model is, and what the best of a domain on validation recommends."""

from pathlib import Path
from typing import Any

from mmm4rec.baselines.config import ItemKNNConfig
from pipelines.assets.models import DATA, domain_data, has_baselines, has_pretrained, is_given, is_target
from pipelines.settings import House, as_parameters
from pipelines.step import Job, Ref, same_domain, step
from warehouse.store import ALL


def models_of(house: House, domain: str) -> list[Ref]:
    """The models a domain is judged by; of those that are equally good on validation, the last recommends.

    A target domain has one from scratch and, where one is pre-trained, the fine-tuned; a source domain has the
    pre-trained one.
    """
    if not is_target(house, domain):
        return [("models/pretrained", ALL)]
    finetuned = [("models/finetuned", domain)] if has_pretrained(house, domain) else []
    return [("models/scratch", domain), *finetuned]


def is_judged(house: House, domain: str) -> bool:
    """Whether a domain has a model: a source domain has none where the pre-trained one is given."""
    return is_target(house, domain) or not is_given(house)


def _refs(house: House, domain: str) -> list[Ref]:
    return [*same_domain(*DATA)(house, domain), *models_of(house, domain)]


def _checkpoints(job: Job) -> dict[str, Path]:
    return {key.split("/")[1]: job.input(key).path for key, _ in models_of(job.house, job.domain)}


def _compared(house: House, domain: str) -> list[Ref]:
    """What the metrics are of: the models of the domain, and its baselines."""
    return [*_refs(house, domain), *([("models/baselines", domain)] if has_baselines(house, domain) else [])]


def _knn(house: House, domain: str) -> ItemKNNConfig | None:
    """The settings of the baseline that needs no training, where it is asked for."""
    return house.settings.asked.item_knn if is_target(house, domain) else None


def _counted(house: House, domain: str) -> dict[str, Any]:
    knn = _knn(house, domain)
    return {"item_knn": as_parameters(knn)} if knn else {}


@step(
    "reports/metrics",
    "mmm4rec.reports",
    upstream=[*DATA, "models/pretrained", "models/scratch", "models/finetuned", "models/baselines"],
    refs=_compared,
    applies=is_judged,
    parameters=_counted,
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def metrics(job: Job) -> Any:
    """How good popularity, the baselines asked for and every model of the domain are, over all its items."""
    from mmm4rec.reports import build_metrics

    checkpoints = _checkpoints(job)
    if has_baselines(job.house, job.domain):
        folder = job.input("models/baselines").path
        checkpoints |= {name: folder / f"{name}.safetensors" for name in job.house.settings.asked.trained}
    return build_metrics(
        domain_data(job, job.domain), checkpoints, job.out, progress=job.progress, knn=_knn(job.house, job.domain)
    )


@step(
    "reports/recommendations",
    "mmm4rec.reports",
    upstream=[*DATA, "models/pretrained", "models/scratch", "models/finetuned"],
    refs=_refs,
    applies=is_judged,
    parameters=lambda house, domain: as_parameters(house.settings.recommendations),
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def recommendations(job: Job) -> Any:
    """The items each user is most likely to want next, without those already bought unless the settings say so; by the
    model that is best on validation."""
    from mmm4rec.reports import build_recommendations

    return build_recommendations(
        domain_data(job, job.domain),
        _checkpoints(job),
        job.out,
        **as_parameters(job.house.settings.recommendations),
        progress=job.progress,
    )
