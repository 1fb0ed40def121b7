"""The speed of extraction relative to its parts, of the shard reader relative to Pillow, and of a run without news.

``python -m benchmarks.extraction [--quick] [--json]``. The pictures are seeded random JPEGs with sides of 300 to 500
pixels. The encoder is a CLIP ViT-B/32 with random weights (a much smaller one with --quick), on the GPU if there is
one, there in bfloat16. The measurements take turns; the figures are medians.

- items_per_second: pictures per second of ``embed_images``, from shards to Parquet (on a GPU, where there are thousands
  of pictures, to that of the cache). It and decode_per_second count from the first quarter of the pictures on, so
  without the start of the processes.
- forward_per_second: pictures per second of forward passes over prepared batches in memory, on the encoder's device.
- decode_per_second: pictures per second that are read, checked, decoded, prepared and brought to the device, by as
  many processes as ``embed_images`` starts, while nothing is encoded.
- fraction_of_forward, fraction_of_smaller: items_per_second divided by forward_per_second, or by the smaller of
  forward_per_second and decode_per_second.
- share_of_reading, share_of_decoding, share_of_resizing: shares of a core's time for a picture; reading includes the
  check, and resizing all that makes the bytes that a GPU gets.
- large_pillow_per_second_and_core, large_draft_per_second_and_core: pictures of 1500x1500 that are decoded and prepared
  in a second of one core's time, by the setting ``decoding``.
- with the ending _gpu_decoding: the same with ``decoding: gpu``; if this cannot run here, gpu_decoding says why.
  lowest_cosine_gpu_decoding is that of a picture's vectors by both decoders.
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
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import arguments, show
from benchmarks.pictures import image_row, jpegs, numbered, write_images
from features.encoders import Encoder, EncoderIdentity, open_encoder
from features.errors import FeatureError
from features.item_text import content_sha256
from features.parquet import write_table
from features.pictures.decode import decode
from features.pictures.shards import Place, read_bytes
from features.settings import Decoding, EncoderSettings
from features.tables import ITEM_IMAGES, ITEM_TEXT
from features.vectors.cache import VectorCache
from features.vectors.embeddings import embed_images, embed_texts
from features.vectors.loading import Original, choose_workers, load, prepared

SIDE = 224
DISTINCT = 256
"""Most pictures that differ in their pixels; more are copies with a number in a comment."""
LARGE = 1500


def main() -> None:
    """Measure, show the figures."""
    options = arguments(__doc__ or "", repeats=0, pictures=0)
    show(*measure(options.quick, options.pictures, options.repeats), options.json)


def measure(quick: bool, pictures: int = 0, repeats: int = 0) -> tuple[str, dict[str, float | int | str]]:
    """Make pictures, shards and a model, and measure: a title and the figures. 0 pictures or repeats: as many as fit
    the device."""
    import torch

    cuda = torch.cuda.is_available()
    count = pictures or (48 if quick else 6144 if cuda else 256)
    repeats = repeats or (1 if cuda else 3)
    return _measured(quick, count, repeats, cuda)


def _measured(quick: bool, count: int, repeats: int, cuda: bool) -> tuple[str, dict[str, float | int | str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = jpegs(min(count, DISTINCT))
        originals = write_images(folder / "images", numbered(pictures, count))
        packed = write_random_clip(folder / "model", small=quick)
        work = Work(folder, originals, batch=256 if cuda else min(64, count // 4))
        encoder = opened(packed, "pillow")
        some = work.ready(encoder)
        assert all(np.isfinite(vectors).all() for vectors in encoder.encode_batches(some))
        passes = [some[number % len(some)] for number in range(-(-count // work.batch))]
        noop = noop_of(folder / "noop", 2_000 if quick else 100_000)
        turns: dict[str, list[float]] = {}
        for turn in range(repeats):
            measured = {
                "forward_per_second": sum(map(len, passes)) / seconds(lambda: list(encoder.encode_batches(passes))),
                "decode_per_second": work.decode_rate(encoder),
                "items_per_second": work.rate(encoder, f"turn-{turn}"),
                "pillow": seconds(lambda: [resized(decoded(data)) for data in pictures], time.process_time),
                "reader": seconds(lambda: work.read(len(pictures)), time.process_time),
                "noop_seconds": seconds(lambda turn=turn: noop(turn)),
            }
            for name, value in measured.items():
                turns.setdefault(name, []).append(value)
        median = {name: statistics.median(values) for name, values in turns.items()}
        pillow, reader = median.pop("pillow"), median.pop("reader")
        return (
            f"{count:,} pictures of {np.mean([len(data) for data in pictures]) / 1e3:.0f} kB, "
            f"{encoder.identity.model} on {encoder.device}, {repeats} turns",
            median
            | fractions(median)
            | {"reader_fraction_of_pillow": pillow / reader, "reader_per_second_and_core": len(pictures) / reader}
            | shares(work, encoder.preparation)
            | large_rates(encoder.preparation, 2 if quick else 12)
            | gpu_decoding(work, packed, encoder, median["forward_per_second"]),
        )


@dataclass(frozen=True)
class Work:
    """The pictures in `folder` / images, and how many go into a batch."""

    folder: Path
    originals: list[Original]
    batch: int

    def batches(self, count: int | None = None) -> list[list[Original]]:
        """The pictures, or the first `count` of them, batch by batch."""
        some = self.originals[:count]
        return [some[start : start + self.batch] for start in range(0, len(some), self.batch)]

    def read(self, count: int) -> None:
        """Read the first pictures from their shards, and resize them."""
        for batch in self.batches(count):
            load(self.folder / "images", batch, resized)

    def ready(self, encoder: Encoder) -> list[Any]:
        """The first pictures in prepared batches, on the encoder's device."""
        import torch

        made = [load(self.folder / "images", batch, encoder.preparation) for batch in self.batches(2 * DISTINCT)]
        return [torch.from_numpy(batch).to(encoder.device) for batch in made]

    def decode_rate(self, encoder: Encoder) -> float:
        """Pictures per second that come to the encoder's device."""
        processes, _ = choose_workers(len(self.originals), encoder.device)
        clock, done = Clock(), 0
        for batch in prepared(self.folder / "images", self.batches(), encoder.preparation, processes, encoder.device):
            done += len(batch)
            clock(done, len(self.originals))
        return clock.rate()

    def rate(self, encoder: Encoder, name: str) -> float:
        """Pictures per second of an extraction with an empty cache, into a new folder of this name."""
        out, clock = self.folder / name, Clock()
        out.mkdir()
        table = out if len(self.originals) <= DISTINCT else None  # a table of many equal vectors would be refused
        summary = embed_images(
            self.folder / "images", encoder, table, cache=self.folder / f"{name}-cache", batch_size=self.batch,
            progress=clock,
        )  # fmt: skip
        assert summary.encoded == summary.items
        return clock.rate()


class Clock:
    """The rate of work from its first quarter on to the call of :meth:`rate`."""

    start, left = 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """So much is done."""
        if not self.start and 4 * done >= total:
            self.start, self.left = time.perf_counter(), total - done

    def rate(self) -> float:
        """Pieces per second; all are done now."""
        return self.left / (time.perf_counter() - self.start)


def fractions(rates: dict[str, float], ending: str = "") -> dict[str, float]:
    """The rate of the extraction relative to those of its parts."""
    items, forward = rates["items_per_second"], rates["forward_per_second"]
    smaller = min(forward, rates["decode_per_second"])
    return {f"fraction_of_forward{ending}": items / forward, f"fraction_of_smaller{ending}": items / smaller}


def shares(work: Work, preparation: Any) -> dict[str, float]:
    """The parts of a core's time for a picture."""
    folder, some = work.folder / "images", work.originals[:DISTINCT]
    clock = [time.process_time()]
    data = [read_bytes(folder, original.place, original.size) for original in some]
    assert [sha256(one).hexdigest() for one in data] == [original.sha256 for original in some]
    clock.append(time.process_time())
    pictures = [decode(one) for one in data]
    clock.append(time.process_time())
    for picture in pictures:
        preparation.pixels(picture)
    clock.append(time.process_time())
    read, decoding, resizing = (np.diff(clock) / (clock[-1] - clock[0])).tolist()
    return {"share_of_reading": read, "share_of_decoding": decoding, "share_of_resizing": resizing}


def large_rates(preparation: Any, count: int) -> dict[str, float]:
    """Large pictures per second and core, with and without drafts."""
    pictures = jpegs(count, sides=(LARGE, LARGE + 1))
    draft = replace(preparation, decoding="draft")
    rates = {}
    for way in (preparation, draft):
        spent = seconds(lambda way=way: [way.pixels(decode(data, way.least)) for data in pictures], time.process_time)
        rates[f"large_{way.decoding}_per_second_and_core"] = count / spent
    return rates


def gpu_decoding(work: Work, packed: Path, reference: Encoder, forward: float) -> dict[str, float | str]:
    """The figures of an extraction whose JPEGs the GPU decodes, or what is missing for it."""
    from features.vectors.gpu import JpegDecoder

    if not reference.device.startswith("cuda"):
        return {"gpu_decoding": "there is no GPU"}
    encoder = opened(packed, "gpu")
    try:
        JpegDecoder(cast(Any, encoder.preparation), encoder.device)
    except FeatureError as error:
        return {"gpu_decoding": str(error)}
    some = work.batches(DISTINCT)
    images = work.folder / "images"
    vectors, others = (
        np.concatenate(list(one.encode_batches(prepared(images, some, one.preparation, 0, one.device))))
        for one in (encoder, reference)
    )
    rates = {
        "forward_per_second": forward,
        "decode_per_second": work.decode_rate(encoder),
        "items_per_second": work.rate(encoder, "gpu"),
    }
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return {
        "gpu_decoding": "measured",
        "lowest_cosine_gpu_decoding": float(((vectors * others).sum(axis=1) / lengths).min()),
        "decode_per_second_gpu_decoding": rates["decode_per_second"],
        "items_per_second_gpu_decoding": rates["items_per_second"],
    } | fractions(rates, "_gpu_decoding")


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of a call, or its time by another clock."""
    start = clock()
    function()
    return clock() - start


def decoded(data: bytes) -> Image.Image:
    """The picture that Pillow decodes from bytes in memory."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def resized(picture: Image.Image) -> NDArray[Any]:
    """The picture resized to SIDE x SIDE."""
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


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


def write_random_clip(folder: Path, small: bool) -> Path:
    """A folder with a CLIP of random weights, as sentence-transformers stores it: ViT-B/32, or a much smaller one."""
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
    return packed


def opened(model: Path, decoding: Decoding) -> Encoder:
    """The model as an encoder on this machine's GPU, in bfloat16, or on its CPU."""
    import torch

    cuda = torch.cuda.is_available()
    settings = EncoderSettings(model=str(model), precision="bfloat16" if cuda else "float32", decoding=decoding)
    return cast(Encoder, open_encoder(settings, device="cuda" if cuda else "cpu"))


if __name__ == "__main__":
    main()
