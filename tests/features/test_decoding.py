"""The ways of decoding JPEGs: which pictures they hold for, how near their results are, and that they never mix."""

import io
import struct
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from features.encoders import EncoderIdentity, encoder_identity, open_encoder
from features.encoders.preparation import Preparation
from features.encoders.protocol import DECODINGS
from features.errors import FeatureError
from features.lookup.mapped import VectorTable
from features.lookup.search import Query, search_content
from features.parquet import write_table
from features.pictures.baseline import plain_area
from features.pictures.decode import PictureError, decode
from features.pictures.shards import ShardWriter
from features.settings import Decoding, EncoderSettings, unread
from features.tables import ITEM_IMAGES
from features.vectors import gpu, loading
from features.vectors.embeddings import embed_images
from features.vectors.loading import Original, load, prepared
from tests.features.vectors import read_embeddings

CUDA = torch.cuda.is_available()
on_gpu = pytest.mark.skipif(not CUDA, reason="there is no GPU")
PREPARE = Preparation(size=64, crop=(64, 64), resample=3, factor=(0.02, 0.01, 0.03), offset=(1.5, 1, 2))
WAYS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "commented": {"comment": b"a comment"},
    "progressive": {"progressive": True},
    "cmyk": {"mode": "CMYK"},
    "grey": {"mode": "L"},
    "turned": {"turn": 6},
    "png": {"format": "PNG"},
    "gif": {"format": "GIF"},
}
PLAIN = list(WAYS)[:4]


def bytes_of(width: int, height: int, *, mode: str = "RGB", turn: int = 1, format: str = "JPEG", **how: Any) -> bytes:
    """A picture of smooth shapes."""
    coarse = np.random.default_rng(width * height).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    picture.save(buffer, format, **({"quality": 90, "exif": exif} if format == "JPEG" else {}), **how)
    return buffer.getvalue()


def stored(folder: Path, pictures: list[bytes]) -> list[Original]:
    """Pictures as the artifact item_images."""
    folder.mkdir()
    found, rows = [], []
    with ShardWriter(folder) as writer:
        for number, data in enumerate(pictures):
            item_id, digest = f"i{number:03}", loading.sha256(data).hexdigest()
            found.append(Original(item_id, digest, writer.add(item_id, data, {}), len(data)))
            place = {"shard": found[-1].place.shard, "offset": found[-1].place.offset, "bytes": len(data)}
            rows.append({"item_id": item_id, "status": "ok", "sha256": digest, **place})
    write_table(pa.Table.from_pylist(rows, schema=ITEM_IMAGES), folder / "item_images.parquet", ITEM_IMAGES)
    return found


@pytest.fixture
def originals(tmp_path: Path) -> tuple[Path, list[Original]]:
    """Two pictures of each way and some of odd sizes, in shards."""
    pictures = [bytes_of(100 + 9 * turn, 90, **how) for how in WAYS.values() for turn in (0, 1)]
    pictures += [bytes_of(*size) for size in ((64, 64), (65, 640), (500, 81), (9, 8), (1100, 1050))]
    return tmp_path / "images", stored(tmp_path / "images", pictures)


# which JPEGs are plain


@pytest.mark.parametrize("way", WAYS)
def test_only_upright_baseline_jpegs_in_ycbcr_are_plain(way: str) -> None:
    assert plain_area(bytes_of(40, 30, **WAYS[way])) == (1200 if way in PLAIN else None)


def area_or_status(data: bytes) -> int | str | None:
    try:
        return plain_area(data)
    except PictureError as problem:
        return problem.status


def test_what_decoders_may_read_differently_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes_of(40, 30)
    frame = data.index(b"\xff\xc0")
    numbers = bytearray(data)
    numbers[frame + 10 : frame + 19 : 3] = b"RGB"
    sampling = bytearray(data)
    sampling[frame + 11] = 0x41
    strange = {
        "no end": data[:-2],
        "more after the end": data + b"more",
        "two frames": data[:frame] + data[frame : frame + 19] + data[frame:],
        "two scans": data[:-2] + b"\xff\xda" + data[-2:],
        "colours named R, G, B": bytes(numbers),
        "sampled four times": bytes(sampling),
        "arithmetic coding": data.replace(b"\xff\xc0", b"\xff\xc9"),
        "untransformed": data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + data[2:],
    }
    for name, changed in strange.items():
        assert changed != data, name
        assert area_or_status(changed) in (None, "not_an_image"), name
    monkeypatch.setattr("features.pictures.baseline.MAX_BYTES", len(data) - 1)
    assert plain_area(data) is None
    monkeypatch.undo()
    assert plain_area(bytes_of(240, 30)) == 7200
    assert plain_area(bytes_of(241, 30)) is None


def test_every_cut_of_a_jpeg_is_refused_or_left_to_pillow() -> None:
    data = bytes_of(40, 30)
    for length in range(len(data)):
        assert area_or_status(data[:length]) in (None, "not_an_image")


def test_a_header_beyond_the_limits_is_refused_before_a_decoder_sees_it() -> None:
    data = bytearray(bytes_of(40, 30))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60_000, 60_000)
    with pytest.raises(PictureError) as caught:
        plain_area(bytes(data))
    assert caught.value.status == "too_large"
    with pytest.raises(PictureError):
        decode(bytes(data), least=64)


# draft


def test_a_draft_has_at_least_the_sides_that_it_must_have() -> None:
    for (width, height), size in {
        (1600, 1600): (200, 200),
        (1600, 1200): (200, 150),
        (1200, 1000): (300, 250),
        (1023, 1024): (256, 256),
        (255, 900): (255, 900),
        (130, 2000): (130, 2000),
    }.items():
        assert decode(bytes_of(width, height), least=128).size == size
        assert decode(bytes_of(width, height)).size == (width, height)
    assert decode(bytes_of(1600, 1200, turn=6), least=128).size == (150, 200)
    for how in (WAYS["png"], WAYS["gif"]):
        data = bytes_of(1600, 1600, **how)
        assert decode(data, least=128).tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("way", [name for name, how in WAYS.items() if "format" not in how])
def test_a_draft_gives_nearly_the_same_pixels(way: str) -> None:
    draft = replace(PREPARE, decoding="draft")
    assert PREPARE.least is None
    assert draft.least == 128
    data = bytes_of(1500, 1100, **WAYS[way])
    whole, part = PREPARE.pixels(decode(data)), draft.pixels(decode(data, draft.least))
    assert 0 < np.abs(whole.astype(int) - part).mean() < 1.5


# the identity


def test_the_way_of_decoding_is_part_of_the_identity_and_the_default_leaves_it_as_it_was(tiny_clip: Path) -> None:
    ways: tuple[Decoding, ...] = ("pillow", "draft", "gpu")
    said = [encoder_identity(EncoderSettings(model=str(tiny_clip), decoding=way)).preprocessing for way in ways]
    assert said[0].split("sha256 ")[1].isalnum()
    assert said[1:] == [
        said[0] + "; JPEGs decoded at the smallest eighth, quarter, half or whole with twice the input's sides",
        said[0] + "; JPEGs decoded and resized on the GPU",
    ]
    for way in ways:
        encoder = open_encoder(EncoderSettings(model=str(tiny_clip), decoding=way), device="cpu")
        assert encoder.preparation.decoding == way
        assert {**asdict(encoder.identity), **asdict(encoder_identity(EncoderSettings(model=str(tiny_clip))))} == {
            **asdict(encoder.identity),
            "preprocessing": said[0],
        }
    assert unread("transformers", ["decoding"], "text") == ["decoding"]
    assert not unread("transformers", ["decoding"], "image")
    assert unread("vectors", ["decoding"], "image") == ["decoding"]


def identity(**changed: Any) -> EncoderIdentity:
    made = EncoderIdentity(
        architecture="a",
        model="m",
        weights_sha256="w",
        preprocessing="p",
        precision="float32",
        normalised=True,
        width=2,
    )
    return replace(made, **changed)


def test_words_find_pictures_however_these_were_decoded() -> None:
    plain = identity()
    for said in DECODINGS.values():
        assert identity(preprocessing="p" + said).comparable(plain)
        assert plain.comparable(identity(preprocessing="p" + said))
    for other in ({"preprocessing": "q"}, {"precision": "bfloat16"}, {"weights_sha256": "v"}):
        assert not identity(**other).comparable(plain)


def test_a_search_by_words_reads_the_vectors_of_pictures_decoded_in_another_way() -> None:
    vectors = np.eye(3, 2, dtype=np.float32)
    table = VectorTable(
        item_ids=pa.array(["a", "b", "c"], pa.large_string()),
        vectors=np.concatenate([np.zeros((1, 2), np.float32), vectors]),
        present=np.array([False, True, True, False]),
        lengths=np.array([0, 1, 1, 0], np.float32),
        identity=identity(preprocessing="p" + DECODINGS["draft"]),
    )
    hits = search_content([table], [Query(np.array([0, 1], np.float32), identity())])
    assert [(hit.item_id, hit.score) for hit in hits] == [("b", 1), ("a", 0)]
    with pytest.raises(FeatureError, match="there are no vectors of encoder m"):
        search_content([table], [Query(np.array([0, 1], np.float32), identity(weights_sha256="v"))])


# what a GPU gets


@pytest.mark.parametrize("decoding", ["pillow", "draft"])
def test_bytes_that_are_scaled_later_are_the_same_to_the_bit(originals, decoding: Decoding) -> None:
    folder, pictures = originals
    prepare = replace(PREPARE, decoding=decoding)
    floats = load(folder, pictures, prepare)
    made = loading.load_part(folder, pictures, prepare, "bytes")
    assert made.dtype == np.uint8
    whole = torch.from_numpy(made).float()
    prepare.scale(whole)
    assert whole.numpy().tobytes() == floats.tobytes()


def test_batches_one_by_one_and_in_a_row_have_the_same_vectors(tiny_clip: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    chance = np.random.default_rng(0)
    batches = [chance.standard_normal((count, 3, 32, 32), np.float32) for count in (5, 3, 1, 5)]
    together = list(encoder.encode_batches(iter(batches)))
    assert [len(vectors) for vectors in together] == [5, 3, 1, 5]
    for batch, vectors in zip(batches, together, strict=True):
        assert vectors.tobytes() == encoder.encode_prepared(batch).tobytes()
    assert not list(encoder.encode_batches([]))


@pytest.mark.long
def test_parts_from_processes_make_the_same_batches(originals, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pictures = originals
    monkeypatch.setattr(loading, "PART", 4)
    batches = [pictures[:11], pictures[11:12], pictures[12:]]
    here = list(prepared(folder, batches, PREPARE, workers=0))
    there = list(prepared(folder, batches, PREPARE, workers=2))
    assert [len(batch) for batch in there] == [11, 1, 13]
    for one, two in zip(here, there, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


# decoding by torchvision, on a CPU too: the code is the same


def by_torchvision() -> Preparation:
    try:
        gpu.JpegDecoder(PREPARE, "cpu")
    except FeatureError as error:
        pytest.skip(str(error))
    return replace(PREPARE, decoding="gpu")


def levels(one: Any, two: Any, prepare: Preparation) -> np.ndarray:
    """How far two prepared batches differ, [n, 3, H, W], in levels of 0..255."""
    factor = np.array(prepare.factor, np.float32)[:, None, None]
    return np.abs(np.asarray(torch.as_tensor(one).cpu()) - np.asarray(torch.as_tensor(two).cpu())) / factor


def test_torchvision_and_pillow_agree_within_rounding(originals) -> None:
    prepare = by_torchvision()
    folder, pictures = originals
    for changed in (
        {},
        {"size": (40, 70), "crop": None, "resample": 2},
        {"size": 40, "crop": (97, 33), "rounds": True},
    ):
        one = replace(prepare, **changed)
        (made,) = prepared(folder, [pictures], one, workers=0)
        assert made.shape == (25, 3, *one.shape)
        assert levels(made, load(folder, pictures, one), one).max() <= 2.5


@pytest.mark.long
def test_processes_that_only_read_make_the_same_batches(originals, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = by_torchvision()
    folder, pictures = originals
    monkeypatch.setattr(loading, "PART", 4)
    monkeypatch.setattr(gpu, "AT_ONCE", 20_000)
    batches = [pictures[:11], pictures[11:12], pictures[12:16], pictures[16:]]
    here = list(prepared(folder, batches, prepare, workers=0))
    there = list(prepared(folder, batches, prepare, workers=2))
    assert [len(batch) for batch in there] == [11, 1, 4, 9]
    for one, two in zip(here, there, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_a_jpeg_that_torchvision_refuses_is_left_to_pillow(originals) -> None:
    """Pillow shows a file with a broken scan, and so does torchvision; a file that nobody reads is an error."""
    prepare = by_torchvision()
    decoder = gpu.JpegDecoder(prepare, "cpu")
    grey, no = (np.frombuffer(data, np.uint8).copy() for data in (bytes_of(30, 20), b"no JPEG"))
    part = loading.Undecoded(1, torch.from_numpy(no), [len(no)], [600], [], None)
    with pytest.raises(FeatureError, match="a picture is not_an_image"):
        decoder([part])
    png = np.frombuffer(bytes_of(90, 70, format="PNG"), np.uint8).copy()
    both = torch.from_numpy(np.concatenate([grey, png]))
    made = decoder([loading.Undecoded(2, both, [len(grey), len(png)], [600, 6300], [], None)])
    wanted = np.stack([PREPARE(decode(grey.tobytes())), PREPARE(decode(png.tobytes()))])
    assert levels(made, wanted, prepare).max() <= 2.5


def test_what_is_missing_for_the_gpu_is_said(originals, tiny_clip: Path, folder, monkeypatch) -> None:
    images, _ = originals
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip), decoding="gpu"), device="cpu")
    with pytest.raises(FeatureError, match=r"^decoding: gpu needs a GPU, but the encoder runs on cpu"):
        embed_images(images, encoder, folder("out"))
    with pytest.raises(FeatureError, match=r"resized by Pillow's filter 1, only bilinear and bicubic are supported"):
        gpu.JpegDecoder(replace(PREPARE, resample=1), "cpu")
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(FeatureError, match=r"decoding: gpu needs a torchvision .* \(.*torchvision.*\); install it"):
        gpu.JpegDecoder(PREPARE, "cpu")


# on a GPU


@on_gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_the_same_bits_as_a_cpu(originals, workers: int) -> None:
    folder, pictures = originals
    batches = [pictures[:16], pictures[16:]]
    for there, batch in zip(prepared(folder, batches, PREPARE, workers, "cuda"), batches, strict=True):
        assert there.is_cuda
        assert there.cpu().numpy().tobytes() == load(folder, batch, PREPARE).tobytes()


@on_gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_decodes_what_pillow_decodes(originals, workers: int) -> None:
    folder, pictures = originals
    prepare = replace(PREPARE, decoding="gpu")
    batches = [pictures[:16], pictures[16:]]
    for there, batch in zip(prepared(folder, batches, prepare, workers, "cuda"), batches, strict=True):
        difference = levels(there, load(folder, batch, PREPARE), PREPARE).mean(axis=(1, 2, 3))
        # The decoders interpolate colours in different ways, which shows most where a picture is enlarged.
        assert np.median(difference) <= 2, difference
        assert difference.max() <= 16, difference
    again = list(prepared(folder, [pictures], prepare, 0, "cuda"))
    assert torch.equal(again[0][:16], next(prepared(folder, batches, prepare, 0, "cuda")))


@on_gpu
def test_vectors_of_a_gpu_that_decodes_agree_with_those_of_pillow(originals, tiny_clip: Path, folder) -> None:
    images, _ = originals
    found = []
    ways: tuple[Decoding, ...] = ("pillow", "gpu")
    for way in ways:
        encoder = open_encoder(EncoderSettings(model=str(tiny_clip), decoding=way), device="cuda")
        out = folder(way)
        embed_images(images, encoder, out, batch_size=8, chunk_size=8)
        found.append(read_embeddings(out, "image_embeddings"))
    assert (found[0].vectors * found[1].vectors).sum(axis=1).min() > 0.98
