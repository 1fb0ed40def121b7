from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from features.embeddings import Embeddings, embed_images, embed_texts
from features.encoders import EncoderIdentity, EncoderSettings, open_encoder
from features.errors import FeatureError
from features.item_images import collect_images
from features.item_text import build_item_text
from features.search import (
    Hit,
    View,
    contact_sheet,
    find_pictures,
    png_bytes,
    search,
    search_item,
    search_picture,
    search_text,
    write_sheet,
)
from tests.features.conftest import png


def view(vectors: np.ndarray, present: np.ndarray | None = None, model: str = "m") -> View:
    count, width = vectors.shape
    present = np.ones(count, bool) if present is None else present
    return View(
        Embeddings(
            item_ids=[f"item {n:04d}" for n in range(count)],
            vectors=np.where(present[:, None], vectors, 0).astype(np.float32),
            present=present,
            content=[None] * count,
            identity=EncoderIdentity(
                model=model,
                weights_sha256="",
                preprocessing="",
                precision="float32",
                architecture="",
                normalised=False,
                width=width,
            ),
        )
    )


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.divide(vectors @ query, lengths, out=np.zeros(len(vectors)), where=lengths > 0)


numbers = st.floats(-4, 4, width=16).map(lambda x: round(x, 1))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=numbers),
    arrays(np.float32, 3, elements=numbers),
    st.integers(1, 45),
    st.data(),
)
def test_hits_are_those_of_a_full_sort(vectors, query, k, data) -> None:
    present = data.draw(arrays(bool, len(vectors)))
    hits = search([view(vectors, present)], [query], k)
    reference = cosines(vectors, query)
    rows = np.flatnonzero(present)
    best = np.sort(reference[rows])[::-1][:k]
    assert np.allclose([hit.score for hit in hits], best, atol=1e-5)
    assert len({hit.item_id for hit in hits}) == len(hits) == min(k, len(rows))
    for hit in hits:
        row = int(hit.item_id.split()[1])
        assert present[row]
        assert abs(reference[row] - hit.score) < 1e-5
    for one, two in pairwise(hits):
        assert (-one.score, one.item_id) < (-two.score, two.item_id)


def test_two_views_are_averaged_and_a_missing_one_counts_zero() -> None:
    texts = view(np.array([[1, 0], [1, 0], [0, 1], [1, 0]]), np.array([True, True, True, False]))
    pictures = view(np.array([[0, 2], [5, 0], [0, 1], [1, 0]]), np.array([False, True, True, False]))
    query = np.array([1, 0], np.float32)
    hits = search([texts, pictures], [query, query])
    assert hits == [Hit("item 0001", 1.0), Hit("item 0000", 0.5), Hit("item 0002", 0.0)]
    assert search([texts, pictures], [query, None], 1) == [Hit("item 0000", 1.0)]
    assert search_item([texts, pictures], "item 0000", 1) == [Hit("item 0001", 1.0)]
    assert search([texts], [query], 0) == []


def test_blocks_do_not_change_the_answer(monkeypatch) -> None:
    random = np.random.default_rng(0)
    vectors, query = random.normal(size=(1000, 8)), random.normal(size=8).astype(np.float32)
    whole = search([view(vectors)], [query], 20)
    monkeypatch.setattr("features.search._BLOCK", 77)
    assert [hit.item_id for hit in search([view(vectors)], [query], 20)] == [hit.item_id for hit in whole]


def test_queries_that_do_not_fit() -> None:
    one = view(np.eye(3))
    with pytest.raises(FeatureError, match="does not fit m, 3 wide"):
        search([one], [np.ones(4, np.float32)])
    with pytest.raises(FeatureError, match="no vector in any view"):
        search([one], [None])
    with pytest.raises(FeatureError, match="different items"):
        search([one, view(np.eye(4))], [np.ones(3, np.float32), np.ones(4, np.float32)])
    with pytest.raises(FeatureError, match="no item 'x' in this domain"):
        search_item([one], "x")


def test_from_files_to_a_sheet(catalogue, folder, tiny_clip: Path, tmp_path: Path) -> None:
    items = {"a": "red", "b/.": "blue", "c": None, "d": "lime"}
    root = folder("root")
    rows = []
    for number, (item_id, colour) in enumerate(items.items()):
        (root / f"{number}.png").write_bytes(png(colour or "black"))
        rows.append({"item_id": item_id, "title": f"{colour} mug", "image_urls": [f"{number}.png"] if colour else []})
    paths = catalogue(rows)
    text, images, texts, pictures = (folder(n) for n in ("text", "images", "texts", "pictures"))
    build_item_text(*paths, text)
    collect_images(*paths, root, images)
    encoder = open_encoder(EncoderSettings(model=str(tiny_clip)))
    embed_texts(text, encoder, texts)
    embed_images(images, encoder, pictures)
    views = [View.open(texts, "text_embeddings"), View.open(pictures, "image_embeddings")]

    assert search_text(views[:1], encoder, "red mug")[0].item_id == "a"
    hits = search_picture(views[1:], encoder, root / "1.png")
    assert hits[0].item_id == "b/."
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert len(search_text(views, encoder, "red mug")) == 4
    with pytest.raises(FeatureError, match="no vectors of encoder"):
        search_text([view(np.eye(3))], encoder, "red mug")
    with pytest.raises(FeatureError, match=r"nothing\.png: cannot be used as a query"):
        search_picture(views, encoder, root / "nothing.png")

    found = find_pictures(images, list(items))
    assert found == {"a": png("red"), "b/.": png("blue"), "d": png("lime")}
    sheet = tmp_path / "sheet.png"
    write_sheet([(Hit(item_id, 0.5), f"{colour} mug", found.get(item_id)) for item_id, colour in items.items()], sheet)
    with Image.open(sheet) as picture:
        assert picture.getpixel((88, 88)) == (255, 0, 0)
        assert picture.getpixel((88 + 168, 88)) == (0, 0, 255)


def test_a_sheet_of_anything() -> None:
    samples = [
        ("a very long label " * 9, png()),
        ("", None),
        ("x" * 200, b"not a picture"),
        ("ключ", png("blue")),
    ]
    sheet = contact_sheet(iter(samples), columns=3)
    assert sheet.size[0] == 3 * 168 + 8
    assert png_bytes(sheet) == png_bytes(contact_sheet(samples, columns=3))
    assert contact_sheet([]).size[1] > 0
