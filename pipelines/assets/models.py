"""Layer models: MMM4Rec pre-trained on all source domains, and per target domain from scratch and fine-tuned, beside
the baselines that the settings ask for.

A checkpoint that the settings give (`pretrained`) takes the place of pre-training. What trains is imported where it is
needed: torch takes longer to load than a run with nothing to do may last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.code_version import code_version
from pipelines.settings import House, as_parameters
from pipelines.step import TRAINING, Job, Ref, same_domain, step
from warehouse.store import ALL, Artifact

if TYPE_CHECKING:
    from mmm4rec.data import DomainData

DATA = ("core/sequences", "features/text_embeddings", "features/image_embeddings")
"""What a model learns from."""


def domain_data(job: Job, domain: str) -> "DomainData":
    """The sequences and vectors of one domain among the inputs of `job`."""
    return load_artifacts(job.inputs, domain)


def load_artifacts(inputs: Sequence[Artifact], domain: str) -> "DomainData":
    """The sequences and vectors of one domain among `inputs`."""
    from mmm4rec.data import load_domain

    sequences, texts, images = (next(a for a in inputs if (a.key, a.domain) == (key, domain)) for key in DATA)
    return load_domain(sequences.path, texts.main, images.main, name=domain)


def versions(inputs: Sequence[Artifact]) -> dict[str, str]:
    """The data versions that go into a checkpoint's sidecar."""
    return {artifact.ref: artifact.version for artifact in inputs}


def is_target(house: House, domain: str) -> bool:
    """Whether a domain is there to be fine-tuned on."""
    return house.settings.domain(domain).role == "target"


def is_given(house: House) -> bool:
    """Whether the settings give a pre-trained model."""
    return house.settings.pretrained is not None


def has_pretrained(house: House, domain: str) -> bool:
    """Whether there is a pre-trained model: one given, or something to pre-train on."""
    return is_given(house) or bool(house.sources())


def is_finetuned(house: House, domain: str) -> bool:
    """Whether a domain gets a fine-tuned model."""
    return is_target(house, domain) and has_pretrained(house, domain)


def has_baselines(house: House, domain: str) -> bool:
    """Whether baselines are trained on a domain: on a target domain, if the settings ask for any."""
    return is_target(house, domain) and bool(house.settings.asked.trained)


def _sources(house: House, domain: str) -> list[Ref]:
    return [] if is_given(house) else [(key, source) for source in house.sources() for key in DATA]


def _given(house: House, domain: str, inputs: Sequence[Artifact]) -> Mapping[str, str]:
    """The sha256 of the files of a checkpoint that is given, by folder and name."""
    folder = house.pretrained
    files = [] if folder is None else [folder / "model.safetensors", folder / "items.parquet"]
    return {f"{file.parent.name}/{file.name}": house.hashes.sha256(file) for file in files if file.exists()}


def _pretraining(house: House, domain: str) -> dict[str, Any]:
    if is_given(house):
        return {}
    return {"model": as_parameters(house.settings.model), "training": as_parameters(house.settings.pretraining)}


@step(
    "models/pretrained",
    "mmm4rec.training",
    upstream=DATA,
    refs=_sources,
    sources=_given,
    parameters=_pretraining,
    applies=has_pretrained,
    per_domain=False,
    kinds=["pytorch"],
    pool="gpu",
)
def pretrained(job: Job) -> Any:
    """MMM4Rec trained on all source domains together, with the items of a batch as each other's negatives; or the
    checkpoint that the settings give."""
    from mmm4rec.training import adopt, pretrain

    settings = job.house.settings
    if given := job.house.pretrained:
        return adopt(given, job.out)
    return pretrain(
        [domain_data(job, source) for source in job.house.sources()],
        settings.model,
        settings.pretraining,
        job.out,
        data_versions=versions(job.inputs),
        state=job.state,
        keep_state=True,
        logs=job.logs,
        progress=job.progress,
    )


def _finetuning(house: House, domain: str) -> dict[str, Any]:
    return {
        "model": as_parameters(house.settings.model),
        "training": as_parameters(house.settings.finetuning),
    }


def _fit(job: Job, init: Path | None = None) -> Any:
    from mmm4rec.training import fit

    settings = job.house.settings
    return fit(
        domain_data(job, job.domain),
        settings.model,
        settings.finetuning,
        job.out,
        init=init,
        data_versions=versions(job.inputs),
        state=job.state,
        keep_state=True,
        logs=job.logs,
        progress=job.progress,
    )


@step(
    "models/scratch",
    "mmm4rec.training",
    upstream=DATA,
    parameters=_finetuning,
    applies=is_target,
    kinds=["pytorch"],
    pool="gpu",
)
def scratch(job: Job) -> Any:
    """MMM4Rec trained on the domain alone: what pre-training is measured against."""
    return _fit(job)


@step(
    "models/finetuned",
    "mmm4rec.training",
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


def _baselines(house: House, domain: str) -> dict[str, Any]:
    return {
        name: {"model": as_parameters(model), "training": as_parameters(training)}
        for name, (model, training) in house.settings.asked.trained.items()
    }


def kept_baselines(house: House, domain: str, inputs: Sequence[Artifact]) -> set[str]:
    """The folders of the cache that hold what is trained, or to be trained, of the baselines asked for."""
    from mmm4rec.baselines.fitting import kept_name

    asked = house.settings.asked.trained.values()
    return {kept_name(model, training, versions(inputs), _training_code()) for model, training in asked}


def _training_code() -> str:
    return code_version("mmm4rec.training")


@step(
    "models/baselines",
    "mmm4rec.baselines.fitting",
    upstream=DATA,
    parameters=_baselines,
    applies=has_baselines,
    kinds=["pytorch"],
    pool="gpu",
)
def baselines(job: Job) -> Any:
    """The models that the settings ask for beside MMM4Rec, each trained on the domain alone."""
    from mmm4rec.baselines.fitting import fit_all

    return fit_all(
        domain_data(job, job.domain),
        job.house.settings.asked.trained,
        job.out,
        state=job.house.cache / TRAINING,
        data_versions=versions(job.inputs),
        code=_training_code(),
        logs=job.logs,
        progress=job.progress,
    )
