"""Layer features: the text and the picture of each item, and the vectors of both.

A build is imported only where it runs, because importing all of them takes longer than a run with nothing to do should
take.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from features.encoders import EncoderFiles, encoder_identity, implementation, open_encoder
from features.settings import EncoderSettings, Fetching
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.step import Apart, Job, Nothing, step
from warehouse.artifacts.store import Artifact

if TYPE_CHECKING:
    from features.encoders import Encoder, ReadyVectors
    from features.vectors.cluster import Cluster

_ITEMS = ("core/items", "core/sequences")
PICTURES = "pictures"
"""Cache folder for the replies of picture addresses."""
VECTORS = "vectors"
"""Cache folder for the vectors that encoders computed."""


@step("features/item_text", "features", upstream=_ITEMS, kinds=["python", "parquet"])
def item_text(job: Job[Nothing]) -> Any:
    """The text of every item in the sequences, in the published form and in a cleaned form."""
    from features.item_text import build_item_text

    return build_item_text(job.table("core/items"), job.table("core/sequences", "items"), job.out)


@dataclass(frozen=True)
class PicturesOf:
    """Where the pictures are or how they are fetched. Their contents count as a source, identified by a fingerprint."""

    root: Apart[Path | str]
    fetching: Apart[Fetching]


def _pictures(data_folder: DataFolder, domain: str) -> PicturesOf:
    return PicturesOf(data_folder.image_root(domain), data_folder.settings.domain(domain).pictures)


def _fingerprint(data_folder: DataFolder, domain: str, inputs: Sequence[Artifact]) -> dict[str, str]:
    from features.pictures.fingerprint import image_fingerprint
    from features.pictures.roots import opened

    of, (items, sequences) = _pictures(data_folder, domain), inputs
    cache = data_folder.kept(PICTURES)
    root = opened(of.root)
    return {"pictures": image_fingerprint(items.main, sequences.file("items.parquet"), root, cache, of.fetching)}


@step(
    "features/item_images",
    "features",
    upstream=_ITEMS,
    pool="downloads",
    sources=_fingerprint,
    parameters=_pictures,
    kinds=["webdataset", "parquet"],
)
def item_images(job: Job[PicturesOf]) -> Any:
    """A status for every item's picture. Valid pictures are stored in tar shards with their original bytes."""
    from features.pictures.item_images import collect_images
    from features.pictures.roots import opened

    return collect_images(
        job.table("core/items"),
        job.table("core/sequences", "items"),
        opened(job.parameters.root),
        job.out,
        cache=job.kept(PICTURES),
        fetching=job.parameters.fetching,
        progress=job.progress,
    )


def encoder_settings(data_folder: DataFolder, domain: str, modality: Literal["text", "image"]) -> EncoderSettings:
    """The encoder settings of a domain with resolved paths: `path`, and a `model` that starts with . or ~."""
    named = data_folder.settings.domain(domain)
    settings = named.text_encoder if modality == "text" else named.image_encoder
    key = f"{domain}: {modality}_encoder"
    if settings.path:
        settings = replace(settings, path=str(data_folder.beside_raw(settings.path, f"{key}: path")))
    if settings.model.startswith((".", "~")):
        settings = replace(settings, model=str(data_folder.beside_raw(settings.model, f"{key}: model")))
    return settings


@dataclass(frozen=True)
class Encoding:
    """How contents become vectors: the encoder, identified by the files that decide its vectors, and their handling.

    `form` (published or clean) applies to texts. `settings` open the encoder; the other fields hold those of them that
    affect the vectors.
    """

    encoder: EncoderFiles
    storage: str
    zeros: str
    form: Literal["published", "clean"] | None
    settings: Apart[EncoderSettings]
    ray: Apart[str | None]
    """Address of a Ray cluster whose nodes encode; None encodes here."""


def _encoding(modality: Literal["text", "image"]) -> Callable[[DataFolder, str], Encoding]:
    def parameters(data_folder: DataFolder, domain: str) -> Encoding:
        settings = encoder_settings(data_folder, domain, modality)
        form = settings.text if modality == "text" else None
        files = encoder_identity(settings)
        ray = data_folder.settings.ray.nodes
        return Encoding(files, settings.storage, settings.zeros, form, settings, ray)

    return parameters


def _encoder(modality: Literal["text", "image"]) -> Callable[[DataFolder, str], list[str]]:
    return lambda data_folder, domain: [implementation(encoder_settings(data_folder, domain, modality))]


@step(
    "features/text_embeddings",
    "features",
    upstream=["features/item_text"],
    parameters=_encoding("text"),
    implementations=_encoder("text"),
    identity="recipe",
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def text_embeddings(job: Job[Encoding]) -> Any:
    """A vector for the text of every item, with the identity of the encoder that computed it."""
    from features.vectors.embeddings import embed_texts

    of = job.parameters
    with _encoders(job, "features/item_text") as (encoder, cluster):
        return embed_texts(
            job.table("features/item_text").parent,
            encoder,
            job.out,
            form=of.settings.text,
            cache=job.kept(VECTORS),
            storage=of.settings.storage,
            progress=job.progress,
            cluster=cluster,
        )


@step(
    "features/image_embeddings",
    "features",
    upstream=["features/item_images"],
    parameters=_encoding("image"),
    implementations=_encoder("image"),
    identity="recipe",
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def image_embeddings(job: Job[Encoding]) -> Any:
    """A vector for the picture of every item, with the identity of the encoder that computed it."""
    from features.vectors.embeddings import embed_images

    items = job.input("features/item_images")
    with _encoders(job, "features/item_images") as (encoder, cluster):
        return embed_images(
            items.main.parent if cluster else items.path,  # on a cluster, each node fetches the shards that it reads
            encoder,
            job.out,
            cache=job.kept(VECTORS),
            storage=job.parameters.settings.storage,
            progress=job.progress,
            cluster=cluster,
        )


@contextmanager
def _encoders(job: Job[Encoding], items: str) -> "Iterator[tuple[Encoder | ReadyVectors, Cluster | None]]":
    """The encoder in this process, and the cluster that encodes in its place, if the settings name one."""
    from features.vectors.cluster import cluster_at

    of = job.parameters
    address = of.ray if of.settings.encodes else None
    with cluster_at(address, partial(open_encoder, of.settings), job.input(items).file) as cluster:
        yield open_encoder(of.settings, device="cpu" if cluster else "auto"), cluster
