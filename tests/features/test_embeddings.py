import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.encoders import EncoderIdentity, open_encoder
from features.errors import FeatureError
from features.item_text import build_item_text
from features.pictures.item_images import collect_images
from features.settings import EncoderSettings
from features.tables import TABLES
from features.vectors.embeddings import embed_images, embed_texts
from tests.features.conftest import png
from tests.features.vectors import read_embeddings

SHAPES = ["text", "image"]


@pytest.fixture
def domain(catalogue, folder):
    """Builds item_text and item_images of some titles and colours; every call makes new folders."""
    calls = iter(range(100))

    def build(items: dict[str, tuple[str | None, str | None]]) -> tuple[Path, Path]:
        number = next(calls)
        root = folder(f"root {number}")
        rows = []
        for item_id, (title, colour) in items.items():
            if colour:
                (root / f"{item_id}.png").write_bytes(png(colour))
            rows.append({"item_id": item_id, "title": title, "image_urls": [f"{item_id}.png"] if colour else []})
        paths = catalogue(rows)
        text, images = folder(f"text {number}"), folder(f"images {number}")
        build_item_text(*paths, text)
        collect_images(*paths, root, images, shard_bytes=4096)
        return text, images

    return build


IDENTITY = EncoderIdentity(
    model="constant",
    weights_sha256="",
    preprocessing="",
    precision="float32",
    architecture="",
    normalised=False,
    width=3,
)
ITEMS = {
    "a": ("red mug", "red"),
    "b": ("blue lamp", None),
    "c": (None, "blue"),
    "d": ("striped mug", "green"),
    "e": (None, None),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_stand_beside_their_item(domain, folder, tiny_clip: Path, shape: str) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    text, images = domain(ITEMS)
    out, seen = folder("out"), []
    embed, source = (embed_texts, text) if shape == "text" else (embed_images, images)
    summary = embed(source, encoder, out, batch_size=2, progress=lambda *step: seen.append(step))
    table = read_embeddings(out, f"{shape}_embeddings")
    assert table.item_ids == list("abcde")
    has = [fields[SHAPES.index(shape)] for fields in ITEMS.values()]
    assert table.present.tolist() == [one is not None for one in has]
    for vector, one in zip(table.vectors, has, strict=True):
        expected = np.zeros(12, np.float32)
        if one and shape == "text":
            expected = encoder.encode_texts([one])[0]
        elif one:
            expected = encoder.encode_images([Image.new("RGB", (40, 60), one)])[0]
        assert np.allclose(vector, expected, atol=1e-5)
    assert (summary.items, summary.encoded, summary.reused, summary.missing) == (5, 3, 0, 2)
    assert seen == [(2, 3), (3, 3)]
    assert EncoderIdentity(**json.loads((out / "encoder.json").read_text())) == encoder.identity
    schema = pq.read_schema(out / f"{shape}_embeddings.parquet")
    declared = TABLES[f"features/{shape}_embeddings/{shape}_embeddings"]
    assert schema.names == declared.names
    assert schema.field("vector").type.list_size == 12
    assert schema.field("present").metadata == declared.field("present").metadata
    json.dumps(asdict(summary))


def test_the_same_inputs_give_the_same_bytes(domain, folder, tiny_clip: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    text, images = domain(ITEMS)
    outs = [folder(name) for name in ("t1", "t2", "i1", "i2")]
    for out in outs[:2]:
        embed_texts(text, encoder, out)
    for out in outs[2:]:
        embed_images(images, encoder, out)
    files = [{path.name: path.read_bytes() for path in out.iterdir()} for out in outs]
    assert files[0] == files[1]
    assert files[2] == files[3]


def test_only_new_content_is_encoded(domain, folder, tmp_path: Path, tiny_clip: Path) -> None:
    encoder, cache = open_encoder(EncoderSettings(model=str(tiny_clip))), tmp_path / "cache"
    text, images = domain(ITEMS)
    t1, i1, t2, i2, t3 = (folder(name) for name in ("t1", "i1", "t2", "i2", "t3"))
    embed_texts(text, encoder, t1, cache=cache)
    embed_images(images, encoder, i1, cache=cache)
    # a keeps both; b is gone; c gets a title and a new picture; d's content moves to f; g is new.
    changed = {
        "a": ("red mug", "red"),
        "c": ("blue mug", "black"),
        "f": ("striped mug", "green"),
        "g": (None, "white"),
    }
    text, images = domain(changed)
    texts = embed_texts(text, encoder, t2, cache=cache)
    pictures = embed_images(images, encoder, i2, cache=cache)
    assert (texts.encoded, texts.reused, texts.missing) == (1, 2, 1)
    assert (pictures.encoded, pictures.reused, pictures.missing) == (2, 2, 0)
    full = folder("full")
    assert embed_texts(text, encoder, full).encoded == 3
    fresh, mixed = (read_embeddings(path, "text_embeddings") for path in (full, t2))
    assert np.allclose(fresh.vectors, mixed.vectors, atol=1e-6)
    assert fresh.content == mixed.content
    assert embed_texts(text, encoder, t3, cache=cache).encoded == 0
    published = embed_texts(text, encoder, folder("published"), form="published", cache=cache)
    assert published.encoded == 3


def test_one_content_under_two_items_is_encoded_once(domain, folder, tiny_clip: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    text, images = domain({"a": ("red mug", "red"), "b": ("blue mug", "blue"), "c": ("red mug", "red")})
    for embed, source, noun in ((embed_texts, text, "text"), (embed_images, images, "image")):
        out = folder(noun)
        summary = embed(source, encoder, out)
        assert (summary.encoded, summary.reused, summary.missing) == (2, 1, 0)
        a, b, c = read_embeddings(out, f"{noun}_embeddings").vectors
        assert np.array_equal(a, c)
        assert not np.array_equal(a, b)


def test_another_encoder_reuses_nothing(domain, folder, tmp_path: Path, tiny_clip: Path, minilm: Path) -> None:
    text, _ = domain(ITEMS)
    first, second, third = folder("first"), folder("second"), folder("third")
    clip = open_encoder(EncoderSettings(model=str(tiny_clip)))
    embed_texts(text, clip, first, cache=tmp_path / "cache")
    other = open_encoder(EncoderSettings(model=str(minilm)))
    summary = embed_texts(text, other, second, cache=tmp_path / "cache")
    assert (summary.encoded, summary.reused) == (3, 0)
    assert read_embeddings(second, "text_embeddings").vectors.shape == (5, 384)
    assert embed_texts(text, clip, third, cache=tmp_path / "cache").reused == 3  # the old vectors are still there


def test_nothing_to_encode_opens_no_shard(domain, folder, tmp_path: Path, tiny_clip: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    _, images = domain(ITEMS)
    embed_images(images, encoder, folder("first"), cache=tmp_path / "cache")
    for shard in images.glob("*.tar"):
        shard.unlink()
    assert embed_images(images, encoder, folder("second"), cache=tmp_path / "cache").reused == 3
    with pytest.raises(FeatureError, match=r"images-000000\.tar: not a readable shard"):
        embed_images(images, encoder, folder("third"))


def test_half_precision_takes_half_the_room_and_reads_as_float32(domain, folder, tmp_path: Path, tiny_clip) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    text, _ = domain(ITEMS)
    whole, half = folder("whole"), folder("half")
    embed_texts(text, encoder, whole, cache=tmp_path / "cache")
    assert embed_texts(text, encoder, half, cache=tmp_path / "cache", storage="float16").encoded == 0
    assert pq.read_schema(half / "text_embeddings.parquet").field("vector").type == pa.list_(pa.float16(), 12)
    full, rounded = (read_embeddings(path, "text_embeddings") for path in (whole, half))
    assert rounded.vectors.dtype == np.float32
    assert np.array_equal(rounded.vectors, full.vectors.astype(np.float16).astype(np.float32))
    assert rounded.content == full.content


def test_shards_that_are_not_those_of_the_table(domain, folder, tiny_clip: Path) -> None:
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    _, images = domain(ITEMS)
    _, others = domain(ITEMS | {"a": ("red mug", "pink")})
    (images / "images-000000.tar").write_bytes((others / "images-000000.tar").read_bytes())
    with pytest.raises(FeatureError, match="disagree at item 'a'; rebuild item_images"):
        embed_images(images, encoder, folder("out"))


class Constant:
    """An encoder that gives `wrong` for one text, and small numbers for the others."""

    device = "cpu"
    identity = IDENTITY

    def __init__(self, wrong: float) -> None:
        self.wrong = wrong

    def encode_texts(self, texts):
        return np.array([[1, 2, self.wrong if text == "blue lamp" else 3] for text in texts], np.float32)

    def is_cut(self, texts):
        return np.array([len(text) > 8 for text in texts])

    def encode_images(self, images):
        raise FeatureError("only texts")


def test_a_vector_that_is_not_finite_is_an_error(domain, folder, tmp_path: Path) -> None:
    text, _ = domain(ITEMS)
    out = folder("out")
    with pytest.raises(FeatureError, match="encoder constant gave item 'b' a vector that is not finite"):
        embed_texts(text, Constant(np.inf), out, cache=tmp_path / "cache")
    assert not list(out.iterdir())
    assert not list(tmp_path.glob("cache/*/*.parquet"))


def test_a_vector_beyond_half_precision_is_an_error(domain, folder) -> None:
    text, _ = domain(ITEMS)
    out = folder("out")
    with pytest.raises(FeatureError, match=r"float16 .* gives item 'b' a vector that is not finite"):
        embed_texts(text, Constant(1e5), out, storage="float16")
    assert not list(out.iterdir())
    assert embed_texts(text, Constant(1e5), out).encoded == 3


def test_the_items_whose_text_is_cut_are_counted(domain, folder, tmp_path: Path) -> None:
    text, _ = domain(ITEMS | {"f": ("blue lamp", None)})
    first = embed_texts(text, Constant(3), folder("first"), cache=tmp_path)
    again = embed_texts(text, Constant(3), folder("again"), cache=tmp_path)
    assert (first.items, first.missing, first.cut) == (6, 2, 3), "two of the same text, and one more"
    assert (again.encoded, again.cut) == (0, 3), "also where nothing is encoded"
    assert embed_texts(text, Constant(3), None, cache=tmp_path).cut == 0, "counted where a table is written"


class Drifted(Constant):
    """The same files, but what is made of them has changed."""

    def encode_texts(self, texts):
        return super().encode_texts(texts) * 1.1


def test_an_encoder_that_changed_silently_is_caught_before_it_encodes(domain, folder, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    text, _ = domain(ITEMS)
    more, _ = domain(ITEMS | {"f": ("green mug", None)})
    embed_texts(text, Constant(3), folder("first"), cache=cache)
    assert embed_texts(text, Drifted(3), folder("second"), cache=cache).reused == 3  # nothing to encode
    with pytest.raises(FeatureError, match="'constant' no longer makes the same vectors"):
        embed_texts(more, Drifted(3), folder("third"), cache=cache)
    assert embed_texts(more, Constant(3), folder("fourth"), cache=cache).encoded == 1
    (probe,) = cache.glob("*/probe.json")
    whole = probe.read_bytes()
    for damaged in (b"", b"[1]", b'{"a": 1}', whole[:-9]):
        probe.write_bytes(damaged)
        more, _ = domain(ITEMS | {"f": (f"mug {damaged!r}", None)})
        assert embed_texts(more, Constant(3), folder(f"again {len(damaged)}"), cache=cache).encoded == 1
        assert probe.read_bytes() == whole


def test_no_encoder_leaves_all_missing(domain, folder) -> None:
    text, images = domain(ITEMS)
    encoder = open_encoder(EncoderSettings(kind="none"))
    for embed, source, noun in ((embed_texts, text, "text"), (embed_images, images, "image")):
        out = folder(noun)
        assert embed(source, encoder, out).missing == 5
        table = read_embeddings(out, f"{noun}_embeddings")
        assert not table.present.any()
        assert table.vectors.shape == (5, 1)


def test_an_empty_domain(catalogue, folder, tiny_clip: Path) -> None:
    paths = catalogue([])
    text, images, t, i = (folder(name) for name in ("text", "images", "t", "i"))
    build_item_text(*paths, text)
    collect_images(*paths, None, images)
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    assert embed_texts(text, encoder, t).items == 0
    assert embed_images(images, encoder, i).items == 0
    assert read_embeddings(i, "image_embeddings").vectors.shape == (0, 12)


@pytest.mark.parametrize(("column", "width"), [("text", 384), ("image", 1280)])
def test_ready_vectors_of_the_movies(shared: Path, catalogue, folder, column: str, width: int) -> None:
    path = shared / "data" / "movies" / "features_Movies_Source.parquet"
    original = pq.read_table(path, columns=["asin", column])
    ids = original["asin"].to_pylist()
    text, out = folder("text"), folder("out")
    build_item_text(*catalogue([{"item_id": one, "title": one} for one in [*ids, "unknown"]]), text)
    encoder = open_encoder(EncoderSettings(kind="vectors", path=str(path), column=column))
    summary = embed_texts(text, encoder, out)
    assert (summary.imported, summary.missing) == (834, 1)
    table = read_embeddings(out, "text_embeddings")
    assert table.vectors.shape == (835, width)
    expected = np.array(original[column].to_pylist(), np.float32)[ids.index("M000002")]
    assert np.array_equal(table.vectors[table.item_ids.index("M000002")], expected)
