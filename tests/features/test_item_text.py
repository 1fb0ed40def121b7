import hashlib

import pyarrow.parquet as pq
import pytest

from features.errors import FeatureError
from features.item_text import build_item_text, item_texts


def test_published_form_is_the_template_over_raw_fields() -> None:
    published, clean = item_texts("Red mug", "<b>Red</b> mug", "Acme", "Holds &amp; pours.")
    assert published == "Title: <b>Red</b> mug ; Brand: Acme ; Description: Holds &amp; pours. ; "
    assert clean == "Red mug. Acme. Holds & pours"


@pytest.mark.parametrize(
    ("fields", "clean"),
    [
        (("Acme red mug", None, "ACME", None), "Acme red mug"),
        (("Mug", None, "", ""), "Mug"),
        (("Mu&shy;g &lt;3", None, None, "a\x00b\n\tc"), "Mu g <3. a b c"),
        ((None, None, "C++ (tm)", None), "C++ (tm)"),
        (("Life < death and > taxes", None, None, None), "Life taxes"),
    ],
)
def test_clean_form(fields: tuple[str | None, ...], clean: str) -> None:
    assert item_texts(*fields)[1] == clean


@pytest.mark.parametrize(
    "fields",
    [
        (None, None, None, None),
        ("", '<span class="a-size', "", " \n"),
        ('<span class="a', None, None, "<br>"),
    ],
)
def test_an_item_that_says_nothing_has_no_text(fields: tuple[str | None, ...]) -> None:
    assert item_texts(*fields) is None


SCRIPT = "\n\nvar pageStart = (new Date()).getTime();\nwindow.counter = (window.counter || 0) + 1;"


def test_a_title_that_is_script_is_in_neither_text_and_counted(catalogue, folder) -> None:
    assert item_texts(SCRIPT, SCRIPT, "Acme", "A mug") == (
        "Title:  ; Brand: Acme ; Description: A mug ; ",
        "Acme. A mug",
    )
    assert item_texts("var pageStart", SCRIPT, None, None) is None
    rows = [{"item_id": "a", "title": SCRIPT, "title_raw": SCRIPT}, {"item_id": "b", "title": "Time to get a variable"}]
    out = folder("out")
    summary = build_item_text(*catalogue(rows, ["a", "b"]), out)
    assert (summary.present, summary.missing, summary.script_titles) == (1, 1, 1)
    assert pq.read_table(out / "item_text.parquet")["text_clean"].to_pylist() == [None, "Time to get a variable"]


def test_rows_are_exactly_the_kept_items_sorted(catalogue, folder) -> None:
    rows = [
        {"item_id": "b", "title": "Mug", "title_raw": "Mug"},
        {"item_id": "é", "title": "Lamp"},
        {"item_id": "a", "title": ""},
        {"item_id": "left out", "title": "Other"},
    ]
    paths = catalogue(rows, ["é", "b", "a", "unknown"])
    one, two = folder("one"), folder("two")
    summary = build_item_text(*paths, one)
    build_item_text(*paths, two)
    table = pq.read_table(one / "item_text.parquet").to_pydict()
    assert table["item_id"] == ["a", "b", "unknown", "é"]
    assert table["present"] == [False, True, False, True]
    assert table["text_clean"] == [None, "Mug", None, "Lamp"]
    assert table["content_sha256"][1] == hashlib.sha256(b"Mug").hexdigest()
    assert (summary.items, summary.present, summary.missing) == (4, 2, 2)
    assert (one / "item_text.parquet").read_bytes() == (two / "item_text.parquet").read_bytes()


def test_a_table_without_its_columns_is_named(catalogue, tmp_path, folder) -> None:
    items, kept = catalogue([{"item_id": "a"}])
    with pytest.raises(FeatureError, match=r"sequence_items\.parquet: there is no column title"):
        build_item_text(kept, kept, folder("out"))
    with pytest.raises(FeatureError, match=r"nowhere\.parquet"):
        build_item_text(items, tmp_path / "nowhere.parquet", folder("out2"))
