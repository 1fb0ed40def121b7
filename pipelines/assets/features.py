"""Layer features: what an item says and looks like, and the vectors of both."""

from typing import Any

from features.embeddings import embed_images, embed_texts
from features.encoders import encoder_identity, open_encoder
from features.item_images import collect_images, image_fingerprint
from features.item_text import build_item_text
from pipelines.settings import House, as_parameters
from pipelines.step import Job, step

_ITEMS = ("core/items", "core/sequences")


@step("features/item_text", build_item_text, upstream=_ITEMS, kinds=["python", "parquet"])
def item_text(job: Job) -> Any:
    """The text of every item of the sequences: the published form and a cleaned one."""
    return build_item_text(job.table("core/items"), job.table("core/sequences", "items"), job.out)


@step(
    "features/item_images",
    collect_images,
    upstream=_ITEMS,
    sources=lambda house, domain, inputs: {
        "pictures": image_fingerprint(
            inputs[0].main, inputs[1].path / "items.parquet", house.image_root(domain)
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
        progress=job.progress,
    )


def _encoder(house: House, domain: str, modality: str) -> Any:
    settings = getattr(house.settings.domain(domain), f"{modality}_encoder")
    return settings.below(house.raw_folder)


@step(
    "features/text_embeddings",
    embed_texts,
    upstream=["features/item_text"],
    parameters=lambda house, domain: as_parameters(encoder_identity(_encoder(house, domain, "text"))),
    identity="recipe",
    kinds=["pytorch", "parquet"],
)
def text_embeddings(job: Job) -> Any:
    """A vector for every item's text, with the identity of the encoder that made it."""
    return embed_texts(
        job.input("features/item_text").path,
        open_encoder(_encoder(job.house, job.domain, "text")),
        job.out,
        previous=job.previous,
        progress=job.progress,
    )


@step(
    "features/image_embeddings",
    embed_images,
    upstream=["features/item_images"],
    parameters=lambda house, domain: as_parameters(encoder_identity(_encoder(house, domain, "image"))),
    identity="recipe",
    kinds=["pytorch", "parquet"],
)
def image_embeddings(job: Job) -> Any:
    """A vector for every item's picture, with the identity of the encoder that made it."""
    return embed_images(
        job.input("features/item_images").path,
        open_encoder(_encoder(job.house, job.domain, "image")),
        job.out,
        previous=job.previous,
        progress=job.progress,
    )
