"""The speed of extraction relative to the encoder, of the shard reader relative to Pillow, and of a run without news.

``python -m benchmarks.extraction [--quick] [--json]``. The pictures are seeded random JPEGs with sides of 300 to 500
pixels. The encoder is a CLIP ViT-B/32 with random weights (a much smaller one with --quick), on the GPU if there is
one. The measurements take turns; the figures are medians.

- fraction_of_forward: pictures per second (items_per_second) of ``embed_images``, from shards to Parquet, divided by
  those of forward passes over prepared batches in memory, on the encoder's device.
- reader_fraction_of_pillow: pictures that are read from a shard, checked, decoded and resized in one second of one
  core's time, divided by those that Pillow only decodes and resizes from bytes in memory.
- noop_seconds: seconds to write the text and image embeddings of 100,000 items (2,000 with --quick) if the cache
  already has all vectors, 512 wide.
"""

import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import arguments, show
from features.encoders import Encoder, EncoderIdentity, open_encoder
from features.item_text import content_sha256
from features.parquet import write_table
from features.pictures.shards import Place, ShardWriter
from features.settings import EncoderSettings
from features.tables import ITEM_IMAGES, ITEM_TEXT
from features.vectors.cache import VectorCache
from features.vectors.embeddings import embed_images, embed_texts
from features.vectors.loading import Original, load

BATCH = 64
"""Pictures per batch, for the extraction and for the bare forward passes."""
SIDE = 224


def main() -> None:
    """Make pictures, shards and a model; measure; show the figures."""
    options = arguments(__doc__ or "", repeats=3, pictures=0)
    count = options.pictures or (48 if options.quick else 256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = jpegs(count)
        originals = write_images(folder / "images", pictures)
        encoder = open_random_clip(folder / "model", small=options.quick)
        batches = ready_batches(folder / "images", originals, encoder)
        turns: dict[str, list[float]] = {name: [] for name in ("forward", "extraction", "pillow", "reader", "noop")}
        warm = encoder.encode_prepared(batches[0])
        assert np.isfinite(warm).all()
        noop = noop_of(folder / "noop", 2_000 if options.quick else 100_000)
        for turn in range(options.repeats):
            out = folder / f"turn-{turn}"
            turns["forward"].append(seconds(lambda: [encoder.encode_prepared(batch) for batch in batches]))
            turns["extraction"].append(seconds(lambda out=out: extracted(folder / "images", encoder, out)))
            turns["pillow"].append(seconds(lambda: [resized(decoded(data)) for data in pictures], time.process_time))
            turns["reader"].append(seconds(lambda: read(folder / "images", originals), time.process_time))
            turns["noop"].append(seconds(lambda turn=turn: noop(turn)))
        median = {name: statistics.median(values) for name, values in turns.items()}
        show(
            f"{count:,} pictures of {np.mean([len(data) for data in pictures]) / 1e3:.0f} kB, "
            f"{encoder.identity.model} on {encoder.device}, {options.repeats} turns",
            {
                "fraction_of_forward": median["forward"] / median["extraction"],
                "items_per_second": count / median["extraction"],
                "forward_per_second": count / median["forward"],
                "reader_fraction_of_pillow": median["pillow"] / median["reader"],
                "reader_per_second_and_core": count / median["reader"],
                "noop_seconds": median["noop"],
                "fraction_of_forward_best": min(turns["forward"]) / min(turns["extraction"]),
                "reader_fraction_of_pillow_best": min(turns["pillow"]) / min(turns["reader"]),
            },
            options.json,
        )


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of a call, or its time by another clock."""
    start = clock()
    function()
    return clock() - start


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs of smooth shapes with some grain, like product pictures."""
    chance, made = np.random.default_rng(seed), []
    for _ in range(count):
        width, height = chance.integers(300, 501, 2)
        coarse = Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = chance.integers(-12, 13, (height, width, 1), np.int16)
        buffer = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def write_images(folder: Path, pictures: list[bytes]) -> list[Original]:
    """Write the artifact item_images with these pictures. Returns the place of each."""
    folder.mkdir()
    originals, rows = [], []
    with ShardWriter(folder) as writer:
        for number, data in enumerate(pictures):
            item_id, digest = f"item{number:07}", sha256(data).hexdigest()
            place = writer.add(item_id, data, {"sha256": digest})
            originals.append(Original(item_id, digest, place, len(data)))
            rows.append(image_row(originals[-1]))
    write_table(pa.Table.from_pylist(rows, schema=ITEM_IMAGES), folder / "item_images.parquet", ITEM_IMAGES)
    return originals


def image_row(original: Original) -> dict[str, Any]:
    """A row of item_images."""
    place = {"shard": original.place.shard, "offset": original.place.offset, "bytes": original.size}
    return {"item_id": original.item_id, "status": "ok", "sha256": original.sha256, **place}


def decoded(data: bytes) -> Image.Image:
    """The picture that Pillow decodes from bytes in memory."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def resized(picture: Image.Image) -> NDArray[Any]:
    """The picture resized to SIDE x SIDE."""
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def read(folder: Path, originals: list[Original]) -> None:
    """Read all pictures from their shards, batch by batch."""
    for start in range(0, len(originals), BATCH):
        load(folder, originals[start : start + BATCH], resized)


def ready_batches(folder: Path, originals: list[Original], encoder: Encoder) -> list[Any]:
    """Prepared pictures in batches, on the encoder's device."""
    import torch

    made = [
        load(folder, originals[start : start + BATCH], encoder.preparation) for start in range(0, len(originals), BATCH)
    ]
    return [torch.from_numpy(batch).to(encoder.device) for batch in made]


def extracted(images: Path, encoder: Encoder, out: Path) -> None:
    """Embed all pictures, with an empty cache."""
    out.mkdir()
    summary = embed_images(images, encoder, out, cache=out / "cache", batch_size=BATCH)
    assert summary.encoded == summary.items


def noop_of(folder: Path, items: int) -> Callable[[int], None]:
    """A function that embeds texts and pictures of `items` items, all already cached, into a new folder per turn."""
    identity = EncoderIdentity(
        architecture="random",
        model="random",
        weights_sha256="",
        preprocessing="",
        precision="float32",
        normalised=False,
        width=512,
    )
    chance = np.random.default_rng(0)
    ids = [f"item{number:07}" for number in range(items)]
    texts = [f"{item_id} {random.Random(item_id).random()}" for item_id in ids]
    for modality in ("text", "images", "cache"):
        (folder / modality).mkdir(parents=True)
    digests = [content_sha256(text) for text in texts]
    columns = {"item_id": ids, "text": texts, "text_clean": texts, "content_sha256": digests, "present": [True] * items}
    write_table(pa.table(columns, schema=ITEM_TEXT), folder / "text" / "item_text.parquet", ITEM_TEXT)
    rows = [
        image_row(Original(item_id, digest, Place("images-000000.tar", 0), 0))
        for item_id, digest in zip(ids, digests, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=ITEM_IMAGES)
    write_table(table, folder / "images" / "item_images.parquet", ITEM_IMAGES)
    for modality in ("text", "image"):
        cache = VectorCache(folder / "cache", cast(Any, modality), identity)
        for start in range(0, items, 1024):
            part = digests[start : start + 1024]
            cache.add(part, chance.standard_normal((len(part), identity.width), np.float32))
    encoder = cast(Encoder, Idle(identity))

    def run(turn: int) -> None:
        for name, embed, source in (("t", embed_texts, "text"), ("i", embed_images, "images")):
            out = folder / f"{name}{turn}"
            out.mkdir()
            assert embed(folder / source, encoder, out, cache=folder / "cache").reused == items

    return run


class Idle:
    """An encoder that must never be asked for a vector."""

    device = "cpu"

    def __init__(self, identity: EncoderIdentity) -> None:
        self.identity = identity

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """False for every text."""
        return np.zeros(len(texts), np.bool_)


def open_random_clip(folder: Path, small: bool) -> Encoder:
    """A CLIP with random weights in the format of sentence-transformers: ViT-B/32, or a much smaller one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    width, layers = (256, 4) if small else (768, 12)
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "projection_dim": 512}
    words = {"vocab_size": 3, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    names = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<unk>"}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            vision_config=size | heads | {"image_size": SIDE, "patch_size": 32},
            text_config=words | special | {"num_attention_heads": 1, "projection_dim": 512},
            projection_dim=512,
        )
    )
    tokenizer = Tokenizer(models.WordLevel({"<start>": 0, "<end>": 1, "<unk>": 2}, names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = folder / "bare"
    model.save_pretrained(bare)
    CLIPProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names),
    ).save_pretrained(bare)
    packed = folder / ("small-clip" if small else "clip-vit-b-32")
    SentenceTransformer(modules=[Transformer(str(bare))], device="cpu").save(str(packed), create_model_card=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast(Encoder, open_encoder(EncoderSettings(model=str(packed)), device=device))


if __name__ == "__main__":
    main()
