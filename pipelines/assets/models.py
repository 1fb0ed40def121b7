"""Layer models: MMM4Rec pre-trained on all source domains; for each target domain MMM4Rec from scratch, MMM4Rec
fine-tuned, and the baselines that the settings request.

A checkpoint in the settings (`pretrained`) replaces pre-training. The training code is imported only where it is
needed, because loading torch takes longer than a run with nothing to do should take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mmm4rec.config import ModelConfig, RecommenderConfig, TrainConfig
from mmm4rec.registry import MODELS
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.code_version import code_version
from pipelines.planner.step import TRAINING, Apart, Job, Ref, same_domain, step
from pipelines.ranks import Nodes, Train, train_on
from warehouse.artifacts.store import ALL, Artifact

if TYPE_CHECKING:
    from mmm4rec.data.domain import DomainData
    from mmm4rec.training.once import TrainingRecipe
    from mmm4rec.training.record import TrainSummary

DATA = ("core/sequences", "features/text_embeddings", "features/image_embeddings")
"""The artifacts that a model learns from."""


def domain_data(job: Job[Any], domain: str) -> "DomainData":
    """The sequences and vectors of one domain, from the inputs of `job`."""
    return load_artifacts(job.inputs, domain)


def load_artifacts(inputs: Sequence[Artifact], domain: str) -> "DomainData":
    """The sequences and vectors of one domain, from `inputs`."""
    from mmm4rec.data.reading import load_domain

    sequences, texts, images = (next(a for a in inputs if (a.key, a.domain) == (key, domain)) for key in DATA)
    # Of the vectors all files: the identity of their encoder, in a file beside them, becomes a part of the model.
    text, image = (each.path / each.main_name for each in (texts, images))
    return load_domain(sequences.path, text, image, name=domain)


def versions(inputs: Sequence[Artifact]) -> dict[str, str]:
    """The data versions that are recorded beside a checkpoint."""
    return {artifact.ref: artifact.version for artifact in inputs}


def is_target(data_folder: DataFolder, domain: str) -> bool:
    """Whether a domain is a target domain, for fine-tuning."""
    return data_folder.settings.domain(domain).role == "target"


def is_given(data_folder: DataFolder) -> bool:
    """Whether the settings name a pre-trained model."""
    return data_folder.settings.pretrained is not None


def has_pretrained(data_folder: DataFolder, domain: str) -> bool:
    """Whether there is a pre-trained model: one from the settings, or source domains to pre-train on."""
    return is_given(data_folder) or bool(data_folder.sources())


def is_finetuned(data_folder: DataFolder, domain: str) -> bool:
    """Whether a domain gets a fine-tuned model."""
    return is_target(data_folder, domain) and has_pretrained(data_folder, domain)


def has_baselines(data_folder: DataFolder, domain: str) -> bool:
    """Whether baselines are trained on a domain: only on a target domain, and only if the settings request any."""
    return is_target(data_folder, domain) and bool(data_folder.settings.asked.trained)


@dataclass(frozen=True)
class Training:
    """The settings of MMM4Rec and of its training."""

    model: ModelConfig
    training: TrainConfig
    nodes: Apart[Nodes | None]
    """The cluster on whose nodes several devices are; None trains on this machine."""


def _training(data_folder: DataFolder, config: TrainConfig) -> Training:
    address, bucket = data_folder.settings.ray.nodes, data_folder.place
    if address is None or config.devices == 1:
        return Training(data_folder.settings.model, config, None)
    # Ray reads an address as a URI.
    states = f"{quote(bucket, safe=':/')}/{TRAINING}" if bucket else str((data_folder.cache / TRAINING).absolute())
    return Training(data_folder.settings.model, config, Nodes(address, states))


@dataclass(frozen=True)
class Given:
    """A checkpoint that the settings name. Its files are sources."""

    folder: Apart[Path]


def _sources(data_folder: DataFolder, domain: str) -> list[Ref]:
    return [] if is_given(data_folder) else [(key, source) for source in data_folder.sources() for key in DATA]


def _given(data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> Mapping[str, str]:
    """The sha256 of the files of a checkpoint that the settings name, by folder and name."""
    folder = data_folder.pretrained
    files = [] if folder is None else [folder / "model.safetensors", folder / "items.parquet"]
    return {f"{file.parent.name}/{file.name}": data_folder.hashes.sha256(file) for file in files if file.exists()}


def _pretraining(data_folder: DataFolder, domain: str) -> Training | Given:
    given = data_folder.pretrained
    return Given(given) if given else _training(data_folder, data_folder.settings.pretraining)


def our_model(data_folder: DataFolder, domain: str) -> list[str]:
    """The implementation of the model that the settings describe."""
    return [MODELS[data_folder.settings.model.kind]]


@step(
    "models/pretrained",
    "mmm4rec",
    upstream=DATA,
    refs=_sources,
    sources=_given,
    parameters=_pretraining,
    implementations=our_model,
    applies=has_pretrained,
    per_domain=False,
    kinds=["pytorch"],
    pool="gpu",
)
def pretrained(job: Job[Training | Given]) -> Any:
    """MMM4Rec trained on all source domains together with the in-batch softmax loss, or the checkpoint that the
    settings name."""
    of = job.parameters
    if isinstance(of, Given):
        from mmm4rec.training.fit import adopt

        return adopt(of.folder, job.out)
    return _train(job, of, partial(_pretrain, job.inputs, of))


def _pretrain(inputs: Sequence[Artifact], of: Training, out: Path, **how: Any) -> "TrainSummary":
    """Pre-train on all domains of `inputs`, in this process or in one of several."""
    from mmm4rec.training.fit import pretrain

    domains = [load_artifacts(inputs, source) for source in sorted({artifact.domain for artifact in inputs})]
    return pretrain(domains, of.model, of.training, out, data_versions=versions(inputs), **how)


def _finetuning(data_folder: DataFolder, domain: str) -> Training:
    return _training(data_folder, data_folder.settings.finetuning)


def _fit(
    inputs: Sequence[Artifact], domain: str, of: Training, init: Artifact | None, out: Path, **how: Any
) -> "TrainSummary":
    """Train on one domain of `inputs`, in this process or in one of several."""
    from mmm4rec.training.fit import fit

    data = load_artifacts(inputs, domain)
    start = init.path if init else None
    return fit(data, of.model, of.training, out, init=start, data_versions=versions(inputs), **how)


def _train(job: Job[Any], of: Training, train: Train) -> "TrainSummary":
    """Run a training of this job on this machine, or on the nodes of a cluster."""
    if of.nodes is None:
        return train(job.out, state=job.state, keep_state=True, logs=job.logs, progress=job.progress)
    return train_on(
        of.nodes,
        train,
        job.state.name,
        job.out,
        job.state,
        ranks=of.training.devices,
        device=of.training.device,
        logs=job.logs,
        progress=job.progress,
    )


@step(
    "models/scratch",
    "mmm4rec",
    upstream=DATA,
    parameters=_finetuning,
    implementations=our_model,
    applies=is_target,
    kinds=["pytorch"],
    pool="gpu",
)
def scratch(job: Job[Training]) -> Any:
    """MMM4Rec trained only on this domain. It shows how much pre-training helps."""
    of = job.parameters
    return _train(job, of, partial(_fit, job.inputs, job.domain, of, None))


@step(
    "models/finetuned",
    "mmm4rec",
    upstream=[*DATA, "models/pretrained"],
    refs=lambda data_folder, domain: [*same_domain(*DATA)(data_folder, domain), ("models/pretrained", ALL)],
    parameters=_finetuning,
    implementations=our_model,
    applies=is_finetuned,
    kinds=["pytorch"],
    pool="gpu",
)
def finetuned(job: Job[Training]) -> Any:
    """MMM4Rec that starts from the pre-trained weights and continues to learn on this domain."""
    of, init = job.parameters, job.input("models/pretrained")
    return _train(job, of, partial(_fit, job.inputs, job.domain, of, init))


@dataclass(frozen=True)
class BaselineTraining:
    """A baseline and the version of the code that trains it. Together they identify a stored training."""

    model: RecommenderConfig
    training: TrainConfig
    code: str


@dataclass(frozen=True)
class Baselines:
    """The requested baselines, by name."""

    asked: dict[str, BaselineTraining]


def _baselines(data_folder: DataFolder, domain: str) -> Baselines:
    asked = data_folder.settings.asked.trained
    return Baselines({name: BaselineTraining(model, how, training_code(model)) for name, (model, how) in asked.items()})


def baseline_models(data_folder: DataFolder, domain: str) -> list[str]:
    """The implementations of the baselines that the settings request."""
    return sorted({MODELS[model.kind] for model, _ in data_folder.settings.asked.trained.values()})


def baseline_recipes(data_folder: DataFolder, inputs: Sequence[Artifact]) -> "dict[str, TrainingRecipe]":
    """The trainings of the requested baselines, by name."""
    from mmm4rec.training.once import TrainingRecipe

    asked = data_folder.settings.asked.trained
    return {
        name: TrainingRecipe(model, training, versions(inputs), training_code(model))
        for name, (model, training) in asked.items()
    }


def training_code(model: RecommenderConfig) -> str:
    """The version of the code that trains a model. A change to another model does not affect it."""
    return code_version("mmm4rec.training.fit:fit", "pipelines.assets.models:load_artifacts", MODELS[model.kind])


@step(
    "models/baselines",
    "mmm4rec",
    upstream=DATA,
    parameters=_baselines,
    implementations=baseline_models,
    applies=has_baselines,
    kinds=["pytorch"],
    pool="gpu",
)
def baselines(job: Job[Baselines]) -> Any:
    """The baselines that the settings request, each trained only on this domain."""
    from mmm4rec.baselines.fitting import fit_all
    from mmm4rec.training.once import TrainingRecipe

    data = versions(job.inputs)
    return fit_all(
        domain_data(job, job.domain),
        {name: TrainingRecipe(of.model, of.training, data, of.code) for name, of in job.parameters.asked.items()},
        job.out,
        cache=job.cache / TRAINING,
        logs=job.logs,
        progress=job.progress,
    )
