"""Layer models: MMM4Rec pre-trained on all source domains, and per target domain from scratch and fine-tuned."""

from pathlib import Path
from typing import Any

from mmm4rec.data import DomainData, load_domain
from mmm4rec.training import fit, pretrain
from pipelines.settings import House, as_parameters
from pipelines.step import Job, same_domain, step
from warehouse.store import ALL

DATA = ("core/sequences", "features/text_embeddings", "features/image_embeddings")
"""What a model learns from."""


def domain_data(job: Job, domain: str) -> DomainData:
    """The sequences and vectors of one domain among the inputs of `job`."""
    sequences, texts, images = (next(a for a in job.inputs if (a.key, a.domain) == (key, domain)) for key in DATA)
    return load_domain(sequences.path, texts.main, images.main, name=domain)


def versions(job: Job) -> dict[str, str]:
    """The data versions that go into a checkpoint's sidecar."""
    return {artifact.ref: artifact.version for artifact in job.inputs}


def is_target(house: House, domain: str) -> bool:
    """Whether a domain is there to be fine-tuned on."""
    return house.settings.domain(domain).role == "target"


def has_sources(house: House, domain: str) -> bool:
    """Whether there is anything to pre-train on."""
    return bool(house.sources())


def is_finetuned(house: House, domain: str) -> bool:
    """Whether a domain gets a fine-tuned model."""
    return is_target(house, domain) and has_sources(house, domain)


@step(
    "models/pretrained",
    pretrain,
    upstream=DATA,
    refs=lambda house, domain: [(key, source) for source in house.sources() for key in DATA],
    parameters=lambda house, domain: {
        "model": as_parameters(house.settings.model),
        "training": as_parameters(house.settings.pretraining),
    },
    applies=has_sources,
    per_domain=False,
    kinds=["pytorch"],
    pool="gpu",
)
def pretrained(job: Job) -> Any:
    """MMM4Rec trained on all source domains together, with the items of a batch as each other's negatives."""
    settings = job.house.settings
    return pretrain(
        [domain_data(job, source) for source in job.house.sources()],
        settings.model,
        settings.pretraining,
        job.out,
        data_versions=versions(job),
        state=job.state,
        logs=job.logs,
        progress=job.progress,
    )


def _finetuning(house: House, domain: str) -> dict[str, Any]:
    return {
        "model": as_parameters(house.settings.model),
        "training": as_parameters(house.settings.finetuning),
    }


def _fit(job: Job, init: Path | None = None) -> Any:
    settings = job.house.settings
    return fit(
        domain_data(job, job.domain),
        settings.model,
        settings.finetuning,
        job.out,
        init=init,
        data_versions=versions(job),
        state=job.state,
        logs=job.logs,
        progress=job.progress,
    )


@step("models/scratch", fit, upstream=DATA, parameters=_finetuning, applies=is_target, kinds=["pytorch"], pool="gpu")
def scratch(job: Job) -> Any:
    """MMM4Rec trained on the domain alone: what pre-training is measured against."""
    return _fit(job)


@step(
    "models/finetuned",
    fit,
    upstream=[*DATA, "models/pretrained"],
    refs=lambda house, domain: [*same_domain(*DATA)(house, domain), ("models/pretrained", ALL)],
    parameters=_finetuning,
    applies=is_finetuned,
    kinds=["pytorch"],
    pool="gpu",
)
def finetuned(job: Job) -> Any:
    """MMM4Rec that starts from the pre-trained weights and goes on learning on the domain."""
    return _fit(job, init=job.input("models/pretrained").path)
