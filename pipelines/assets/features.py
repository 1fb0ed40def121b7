"""Layer features: what an item says and looks like, and the vectors of both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from features.embeddings import embed_images, embed_texts
from features.encoders import EncoderSettings, encoder_identity, open_encoder
from features.item_images import collect_images, image_fingerprint
from features.item_text import build_item_text
from pipelines.settings import House, as_parameters
from pipelines.step import Job, step

_ITEMS = ("core/items", "core/sequences")
PICTURES = "pictures"
"""Folder of the cache with what addresses of pictures answered."""
VECTORS = "vectors"
"""Folder of the cache with what encoders made of contents."""


@step("features/item_text", "features.item_text", upstream=_ITEMS, kinds=["python", "parquet"])
def item_text(job: Job) -> Any:
    """The text of every item of the sequences: the published form and a cleaned one."""
    return build_item_text(job.table("core/items"), job.table("core/sequences", "items"), job.out)


@step(
    "features/item_images",
    "features.item_images",
    upstream=_ITEMS,
    pool="downloads",
    sources=lambda house, domain, inputs: {
        "pictures": image_fingerprint(
            inputs[0].main,
            inputs[1].path / "items.parquet",
            house.image_root(domain),
            house.cache / PICTURES,
            house.settings.domain(domain).pictures,
        )
    },
    kinds=["webdataset", "parquet"],
)
def item_images(job: Job) -> Any:
    """A status for every item's picture; those that are well go into tar shards as they came."""
    return collect_images(
        job.table("core/items"),
        job.table("core/sequences", "items"),
        job.house.image_root(job.domain),
        job.out,
        cache=job.house.cache / PICTURES,
        fetching=job.house.settings.domain(job.domain).pictures,
        progress=job.progress,
    )


def encoder_settings(house: House, domain: str, modality: Literal["text", "image"]) -> EncoderSettings:
    """The encoder settings of a domain, with its paths resolved: `path` and a `model` that starts with . or ~."""
    named = house.settings.domain(domain)
    settings = named.text_encoder if modality == "text" else named.image_encoder
    if settings.path:
        settings = replace(settings, path=str(house.raw_folder / Path(settings.path).expanduser()))
    if settings.model.startswith((".", "~")):
        settings = replace(settings, model=str(house.raw_folder / Path(settings.model).expanduser()))
    return settings


def _identity(modality: Literal["text", "image"]) -> Callable[[House, str], dict[str, Any]]:
    """The identity of a domain's encoder, weights and all, as parameters of a recipe."""

    def parameters(house: House, domain: str) -> dict[str, Any]:
        settings = encoder_settings(house, domain, modality)
        identity = {**as_parameters(encoder_identity(settings)), "storage": settings.storage}
        if settings.zeros != "refused":  # the files alone do not say which items have a vector then
            identity["zeros"] = settings.zeros
        return {**identity, "form": settings.text} if modality == "text" else identity

    return parameters


@step(
    "features/text_embeddings",
    "features.embeddings",
    upstream=["features/item_text"],
    parameters=_identity("text"),
    identity="recipe",
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def text_embeddings(job: Job) -> Any:
    """A vector for every item's text, with the identity of the encoder that made it."""
    settings = encoder_settings(job.house, job.domain, "text")
    return embed_texts(
        job.input("features/item_text").path,
        open_encoder(settings),
        job.out,
        form=settings.text,
        cache=job.house.cache / VECTORS,
        storage=settings.storage,
        progress=job.progress,
    )


@step(
    "features/image_embeddings",
    "features.embeddings",
    upstream=["features/item_images"],
    parameters=_identity("image"),
    identity="recipe",
    kinds=["pytorch", "parquet"],
    pool="gpu",
)
def image_embeddings(job: Job) -> Any:
    """A vector for every item's picture, with the identity of the encoder that made it."""
    settings = encoder_settings(job.house, job.domain, "image")
    return embed_images(
        job.input("features/item_images").path,
        open_encoder(settings),
        job.out,
        cache=job.house.cache / VECTORS,
        storage=settings.storage,
        progress=job.progress,
    )
