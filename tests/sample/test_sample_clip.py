"""The shipped CLIP: it is what its recipe says, loads as any CLIP does, finds what a person would find."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import features.encoders
from features.sample.pictures import draw_picture
from features.sample.products import DOMAINS, KINDS, PATTERNS, Product, draw_products
from features.sample.texts import write_text

pytestmark = pytest.mark.long

FOLDER = Path(features.encoders.__file__).parent / "sample_clip"


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def shelf(sample_clip):
    """800 products of the whole space with unit vectors of their pictures."""
    rng = np.random.Generator(np.random.PCG64(77))
    products = draw_products(KINDS, 800, rng)
    pictures = [draw_picture(product, rng) for product in products]
    return products, pictures, _unit(sample_clip.encode(pictures, batch_size=64))


def test_the_weights_are_those_of_the_recipe():
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() == recipe["weights_sha256"]
    assert recipe["held_out"]["query_to_picture_at_5"] > 0.9


def test_the_folder_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_both_modalities_share_one_space_and_repeat_exactly(sample_clip, shelf):
    _, pictures, _ = shelf
    texts = ["striped red mug", "", "Ünknöwn 漢字 🐈 <b>words</b>", "very long " * 200]
    read, seen = sample_clip.encode(texts), sample_clip.encode(pictures[:4])
    assert read.shape == seen.shape == (4, 128)
    assert read.dtype == seen.dtype == np.float32
    assert np.isfinite(read).all()
    np.testing.assert_array_equal(read, sample_clip.encode(texts))
    np.testing.assert_allclose(seen[:1], sample_clip.encode([pictures[0].resize((192, 192))]), atol=0.6)


def test_queries_find_the_pictures_they_name(sample_clip, shelf):
    products, _, seen = shelf
    names = {(p.pattern, p.colour, p.kind) for p in products}
    queries = sorted(names)[:: len(names) // 150]
    read = _unit(sample_clip.encode([" ".join(query) for query in queries], batch_size=64))
    best = np.argsort(-(read @ seen.T), axis=1)[:, :3]
    hits = [
        any((products[i].pattern, products[i].colour, products[i].kind) == query for i in row)
        for query, row in zip(queries, best, strict=True)
    ]
    assert np.mean(hits) > 0.9


def test_striped_red_mugs_come_first(sample_clip):
    rng = np.random.Generator(np.random.PCG64(5))
    wanted = [Product("mug", "red", "striped", m, t, "Hollis") for m in ("matte", "metal") for t in ("black", "gold")]
    others = [
        Product(kind, colour, pattern, "matte", "black", "Hollis")
        for kind in DOMAINS[0].kinds
        for colour in ("red", "orange", "pink")
        for pattern in PATTERNS
        if (kind, colour, pattern) != ("mug", "red", "striped")
    ]
    pictures = [draw_picture(product, rng) for product in (*wanted, *others)]
    closeness = _unit(sample_clip.encode(pictures, batch_size=64)) @ _unit(sample_clip.encode(["striped red mug"]))[0]
    first = np.argsort(-closeness)[: len(wanted)]
    assert len(set(first) & set(range(len(wanted)))) >= 3


def test_a_picture_finds_its_text_through_noise(sample_clip, shelf):
    products, _, seen = shelf
    rng = np.random.Generator(np.random.PCG64(8))
    titles = [f"<b>{write_text(product, rng).title}</b> &amp; free shipping" for product in products]
    best = np.argsort(-(seen @ _unit(sample_clip.encode(titles, batch_size=64)).T), axis=1)[:, :5]
    alike = [
        any((products[i].kind, products[i].colour) == (p.kind, p.colour) for i in row)
        for p, row in zip(products, best, strict=True)
    ]
    assert np.mean(alike) > 0.9


def test_each_modality_keeps_what_the_other_cannot_show(sample_clip, shelf):
    """A linear look at the vectors tells the trim from pictures and the brand from texts."""
    products, _, seen = shelf
    rng = np.random.Generator(np.random.PCG64(11))
    read = _unit(sample_clip.encode([write_text(p, rng).title for p in products], batch_size=64))
    assert _told(seen, [p.trim for p in products]) > 0.75
    assert _told(read, [p.brand for p in products]) > 0.75
    assert _told(read, [p.trim for p in products]) < 0.5
    assert _told(seen, [p.brand for p in products]) < 0.25


def _told(vectors, values) -> float:
    """Share of the second half that a ridge classifier fitted to the first half gets right."""
    names = sorted(set(values))
    target = np.eye(len(names))[[names.index(value) for value in values]]
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
    half = len(vectors) // 2
    weights = np.linalg.solve(
        inputs[:half].T @ inputs[:half] + 0.01 * np.eye(inputs.shape[1]), inputs[:half].T @ target[:half]
    )
    return float(((inputs[half:] @ weights).argmax(1) == target[half:].argmax(1)).mean())


def test_the_training_script_writes_such_a_folder(tmp_path):
    # Imported here, because every worker imports every file of tests, and these take seconds.
    from sentence_transformers import SentenceTransformer

    from features.encoders.train_sample_clip import TrainingSettings, train

    lines: list[str] = []
    train(TrainingSettings(steps=2, batch=16, pictures=64, held_out=20), tmp_path, lines.append)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    shipped = json.loads((FOLDER / "recipe.json").read_text())
    assert recipe.keys() == shipped.keys()
    assert recipe["parameters"] == shipped["parameters"]
    assert shipped["arguments"] == asdict(TrainingSettings()), "the shipped weights are those of the default settings"
    assert SentenceTransformer(str(tmp_path), device="cpu").encode(["mug"]).shape == (1, 128)
    assert lines[-2].startswith("step 2 of 2")
