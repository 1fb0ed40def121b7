import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from features.encoders import open_encoder
from features.errors import FeatureError
from features.item_text import build_item_text
from features.lookup.mapped import VectorTable, open_table
from features.lookup.search import (
    Hit,
    Query,
    find_pictures,
    picture_query,
    search,
    search_content,
    search_item,
    text_query,
    unit,
)
from features.lookup.sheets import write_sheet
from features.lookup.views import read_identity
from features.pictures.item_images import collect_images
from features.settings import EncoderSettings
from features.vectors.embeddings import embed_images, embed_texts
from tests.features.conftest import png
from tests.features.vectors import identity


def view(vectors: np.ndarray, present: np.ndarray | None = None, model: str = "m") -> VectorTable:
    count, width = vectors.shape
    present = np.ones(count, bool) if present is None else present
    vectors = np.where(present[:, None], vectors, 0).astype(np.float32)
    return VectorTable(
        item_ids=pa.array([f"item {n:05d}" for n in range(count)], pa.large_string()),
        vectors=np.concatenate([np.zeros((1, width), np.float32), vectors]),
        present=np.concatenate([[False], present]),
        lengths=np.concatenate([[0], np.linalg.norm(vectors, axis=1)]).astype(np.float32),
        identity=identity(width, model),
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


steps = st.integers(-3, 3).map(lambda n: 1 + n * 2.0**-23)


@given(arrays(np.float32, st.tuples(st.integers(2, 60), st.just(4)), elements=steps), st.integers(1, 60), st.data())
def test_near_ties_and_ties_are_ranked_by_score_then_id(vectors: np.ndarray, k: int, data: st.DataObject) -> None:
    """Vectors that differ in their last bits, some of them twice: the order is that of a full sort of the scores."""
    vectors = np.concatenate([vectors, vectors[data.draw(st.lists(st.integers(0, len(vectors) - 1)))]])
    table = view(vectors)
    scores = np.array([np.dot(row, unit(vectors[0])) for row in vectors], np.float32) / table.lengths[1:]
    order = sorted(range(len(vectors)), key=lambda row: (-scores[row], row))
    hits = search([table], [vectors[0]], k)
    assert [int(hit.item_id.split()[1]) for hit in hits] == order[:k]
    assert [hit.score for hit in hits] == scores[order[:k]].tolist()


def test_equal_vectors_are_equal_wherever_they_lie() -> None:
    """Across blocks and threads, at any place in a block."""
    vectors = np.random.default_rng(0).normal(size=(20_001, 33)).astype(np.float32)
    vectors[np.arange(0, 20_001, 97)] = vectors[0]
    hits = search([view(vectors)], [vectors[0]], 207)
    assert [hit.item_id for hit in hits] == [f"item {n:05d}" for n in range(0, 20_001, 97)]
    assert len({hit.score for hit in hits}) == 1


def test_two_views_are_averaged_and_a_missing_one_counts_zero() -> None:
    texts = view(np.array([[1, 0], [1, 0], [0, 1], [1, 0]]), np.array([True, True, True, False]))
    pictures = view(np.array([[0, 2], [5, 0], [0, 1], [1, 0]]), np.array([False, True, True, False]))
    query = np.array([1, 0], np.float32)
    hits = search([texts, pictures], [query, query])
    assert hits == [Hit("item 00001", 1.0), Hit("item 00000", 0.5), Hit("item 00002", 0.0)]
    assert search([texts, pictures], [query, None], 1) == [Hit("item 00000", 1.0)]
    assert search_item([texts, pictures], "item 00000", 1) == [Hit("item 00001", 1.0)]
    assert search([texts], [query], 0) == []


def test_queries_that_do_not_fit() -> None:
    one = view(np.eye(3))
    with pytest.raises(FeatureError, match="does not fit m, whose width is 3"):
        search([one], [np.ones(4, np.float32)])
    with pytest.raises(FeatureError, match="a query of m is not finite"):
        search([one], [np.array([1, np.nan, 0], np.float32)])
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
    views = [
        VectorTable.of(open_table(made / f"{noun}.parquet", tmp_path / "cache" / noun / "v"), read_identity(made))
        for made, noun in ((texts, "text_embeddings"), (pictures, "image_embeddings"))
    ]

    words, picture = text_query(encoder, "red mug"), picture_query(encoder, root / "1.png")
    assert search_content(views[:1], [words])[0].item_id == "a"
    hits = search_content(views[1:], [picture])
    assert hits[0].item_id == "b/."
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert len(search_content(views, [words])) == 4
    assert len(search_content(views, [words, picture], 2)) == 2
    with pytest.raises(FeatureError, match="no vectors of encoder"):
        search_content([view(np.eye(3))], [words])
    with pytest.raises(FeatureError, match=r"nothing\.png: cannot be used as a query"):
        picture_query(encoder, root / "nothing.png")

    found = find_pictures(images.joinpath, [*items, "nobody"])
    assert found == {"a": png("red"), "b/.": png("blue"), "d": png("lime")}
    sheet = tmp_path / "sheet.png"
    write_sheet([(Hit(item_id, 0.5), f"{colour} mug", found.get(item_id)) for item_id, colour in items.items()], sheet)
    with Image.open(sheet) as picture:
        assert picture.getpixel((88, 88)) == (255, 0, 0)
        assert picture.getpixel((88 + 168, 88)) == (0, 0, 255)


def test_words_and_a_picture_together() -> None:
    """Their mean direction, for each table that their encoder made; a query that fits none is an error."""
    texts, pictures = view(np.eye(3), model="a"), view(np.eye(3)[::-1].copy(), model="b")
    x, y, z = (Query(3 * row.astype(np.float32), texts.identity) for row in np.eye(3))
    hits = search_content([texts], [x, Query(y.vector / 9, y.identity)])
    assert [(hit.item_id, round(hit.score, 6)) for hit in hits] == [
        ("item 00000", 0.707107),
        ("item 00001", 0.707107),
        ("item 00002", 0),
    ]
    mixed = search_content([texts, pictures], [x, Query(z.vector, pictures.identity)])
    assert mixed[0] == Hit("item 00000", 1.0)
    with pytest.raises(FeatureError, match="there are no vectors of encoder b"):
        search_content([texts], [x, Query(z.vector, pictures.identity)])


def test_pictures_of_some_items_read_some_row_groups(tmp_path: Path) -> None:
    """A row group that holds none of the items need not even be readable."""
    ids = [f"{n:02d}" for n in range(20)]
    table = pa.table({"item_id": ids, "shard": ["images-000000.tar"] * 20, "offset": range(20), "bytes": [1] * 20})
    path = tmp_path / "item_images.parquet"
    pq.write_table(table, path, row_group_size=5, compression="none")
    (tmp_path / "images-000000.tar").write_bytes(bytes(range(20)))
    group = pq.read_metadata(path).row_group(0)
    start, stop = group.column(0).dictionary_page_offset, group.column(3).data_page_offset
    data = bytearray(path.read_bytes())
    data[start:stop] = os.urandom(stop - start)
    path.write_bytes(data)
    assert find_pictures(tmp_path.joinpath, ["17", "nobody", "08"]) == {"08": b"\x08", "17": b"\x11"}
    assert find_pictures(tmp_path.joinpath, []) == {}
    with pytest.raises(FeatureError, match="rebuild item_images"):
        find_pictures(tmp_path.joinpath, ["03"])
    with pytest.raises(FeatureError, match="rebuild item_images"):
        find_pictures((tmp_path / "nowhere").joinpath, ["03"])


def test_only_the_shards_that_hold_the_pictures_are_asked_for(tmp_path: Path) -> None:
    """Where artifacts are in a bucket, each file that is asked for is downloaded."""
    shards = ["images-000000.tar", "images-000001.tar", "images-000002.tar"]
    table = pa.table({"item_id": ["a", "b", "c", "d"], "shard": [*shards, None], "offset": [0] * 4, "bytes": [1] * 4})
    pq.write_table(table, tmp_path / "item_images.parquet")
    for shard in shards:
        (tmp_path / shard).write_bytes(shard[-5:-4].encode())
    asked = []

    def file(name: str) -> Path:
        asked.append(name)
        return tmp_path / name

    assert find_pictures(file, ["b", "d"]) == {"b": b"1"}
    assert asked == ["item_images.parquet", "images-000001.tar"]
