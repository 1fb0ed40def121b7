"""raw/metadata and core/items: messy products, duplicates by one rule, text without HTML."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.errors import WarehouseError
from warehouse.items import build_items, clean
from warehouse.metadata import Product, ingest_metadata, read_line

Stage = Callable[[], Path]


def product(line: bytes) -> Product:
    """The product of a line that holds one."""
    read = read_line(line)
    assert not isinstance(read, str), read
    return read[0]


def test_fields_of_any_shape_are_read() -> None:
    messy = {
        "asin": "B001",
        "title": ["A", "title"],
        "brand": None,
        "description": "one text",
        "categories": [["Home", "Mugs"], ["Home", "Cups"]],
        "imageURL": ["http://a", "", "http://b"],
        "imageURLHighRes": ["http://c", " http://a "],
        "image": "http://d",
        "price": ".a-box-inner{background-color:#fff}",
    }
    assert product(json.dumps(messy).encode()) == Product(
        "B001",
        "A title",
        "",
        ["one text"],
        ["Home", "Mugs", "Cups"],
        ["http://c", "http://a", "http://b", "http://d"],
    )
    assert product(b'{"asin": "1"}') == Product("1", "", "", [], [], [])
    assert product(b'{"asin": "1", "title": 1984}').title == "1984"
    assert product(rb'{"asin": "1", "title": "\ud83d\ude00 \ud83d"}').title == "\U0001f600 \ufffd"


def test_an_old_line_is_a_python_literal() -> None:
    line = b"""{'asin': 'B001', 'title': "It's", 'description': None, 'imUrl': 'http://a', 'price': 4.5}"""
    assert read_line(line) == (Product("B001", "It's", "", [], [], ["http://a"]), True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "neither JSON nor a Python literal"),
        (b"{'asin': open('/etc/passwd').read()}", "neither JSON nor a Python literal"),
        (b"{'asin': 'B1', 'n': " + b"-" * 100_000 + b"1}", "neither JSON nor a Python literal"),
        (b"{'asin': 'B1', 'n': " + b"1+" * 100_000 + b"1}", "neither JSON nor a Python literal"),
        (b"{'asin': 'B1', 'x': '" + b"x" * 300_000 + b"'}", "Python literal is too long"),
        (b"{'asin': " + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (b'{"asin":' * 100_000, "nested too deeply"),
        (b'{"asin": "B1", "title": ' + b"9" * 5000 + b"}", "neither JSON nor a Python literal"),
        (b'{"asin": "B1", "title": "cut', "neither JSON nor a Python literal"),
        (b'{"asin": "B\xff1"}', "not UTF-8"),
        (b"[1, 2]", "not an object"),
        (b"{'a', 'set'}", "not an object"),
        (b'{"title": "x"}', "asin is missing or not text"),
        (b'{"asin": ""}', "asin is missing or not text"),
        (b'{"asin": 7}', "asin is missing or not text"),
        (rb'{"asin": "B\u0000"}', "control character in the asin"),
        (rb'{"asin": "\ud800"}', "control character in the asin"),
        (b'{"asin": "' + b"B" * 256 + b'"}', "asin is too long"),
        (b" " * (5 << 20), "line is too long"),
    ],
)
def test_what_is_no_product_is_set_aside(stage: Stage, line: bytes, reason: str) -> None:
    assert read_line(line) == reason
    out = stage()
    source = out.with_suffix(".json")
    source.write_bytes(b'{"asin": "B1"}\r\n' + line + b'\n{"asin": "B2"}')
    summary = ingest_metadata(source, out)
    assert (summary.lines, summary.rows, summary.reasons) == (3, 2, {reason: 1})
    assert pq.read_table(out / "quarantine.parquet")["line"].to_pylist() == [2]
    assert pq.read_table(out / "metadata.parquet")["line"].to_pylist() == [1, 3]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_lines_are_never_lost(stage: Stage, data: st.DataObject) -> None:
    good = b"""{"asin": "B1", "title": "a &amp; b", "description": ["x", "y"], "imageURL": ["u"]}"""
    old = b"""{'asin': 'B1', 'title': 'a', 'categories': [['x', 'y']]}"""
    lines = []
    for _ in range(data.draw(st.integers(1, 20))):
        line = bytearray(data.draw(st.sampled_from([good, old])))
        for _ in range(data.draw(st.integers(0, 4))):
            line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
        lines.append(bytes(line[: data.draw(st.integers(0, len(line)))]).replace(b"\n", b" ").replace(b"\r", b" "))
    out = stage()
    source = out.with_suffix(".json.gz")
    source.write_bytes(gzip.compress(b"\n".join([good, *lines])))
    summary = ingest_metadata(source, out)
    expected = 1 + len(lines) - (lines[-1] == b"")  # an empty last line is the end of the one before
    assert summary.lines == expected == summary.rows + summary.quarantined
    numbers = [
        number
        for name in ("metadata", "quarantine")
        for number in pq.read_table(out / f"{name}.parquet")["line"].to_pylist()
    ]
    assert sorted(numbers) == list(range(1, expected + 1))


@pytest.mark.parametrize("content", [None, b"", gzip.compress(b'{"asin": "B1"}' * 99)[:30], b"[]\n[]"])
def test_an_unusable_file_is_an_error_that_names_it(stage: Stage, content: bytes | None) -> None:
    out = stage()
    source = out.with_suffix(".json.gz")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(WarehouseError) as error:
        ingest_metadata(source, out)
    assert str(source) in str(error.value)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('<span class="a-size-medium a-color-secondary"', ""),
        ('<span class="a">A &amp; B</span>', "A & B"),
        ("&lt;b&gt;Bold&lt;/b&gt;<br/>move", "Bold move"),
        ("&amp;amp; &quot;q&quot;", '& "q"'),
        ("a < b and 5<6 > 3", "a < b and 5<6 > 3"),
        ("I <3 mugs", "I <3 mugs"),
        ("<script>var x = '<b>';</script>Mug", "Mug"),
        ("<style>.a{} Mug", ""),
        ("two\n\n lines\t\x00 of \xa0 text", "two lines of text"),
        ("Caf\xe9 \U0001f600", "Caf\xe9 \U0001f600"),
    ],
)
def test_text_is_cleaned(raw: str, text: str) -> None:
    assert clean(raw) == text


@given(st.text(max_size=200))
def test_text_without_markup_keeps_its_words(text: str) -> None:
    plain = text.replace("<", "").replace("&", "")
    assert clean(plain) == clean(clean(plain))
    assert not clean(text).startswith(" ")


@pytest.mark.parametrize(
    "payload", ["<" * 100_000, "&lt;" * 50_000, "<!--" * 50_000, "<script" * 30_000, "&" * 100_000]
)
def test_hostile_text_takes_linear_time(payload: str) -> None:
    clean(payload)


def _items(stage: Stage, *records: dict[str, object]) -> Path:
    source = stage() / "meta.json"
    source.write_text("\n".join(map(json.dumps, records)))
    raw, out = stage(), stage()
    ingest_metadata(source, raw)
    build_items(raw / "metadata.parquet", out)
    return out


def test_of_duplicates_the_fullest_is_kept_then_the_first(stage: Stage) -> None:
    out = _items(
        stage,
        {"asin": "B2", "title": "<span class='x'", "brand": "b"},  # HTML is no title
        {"asin": "B2", "title": "Mug", "brand": "b"},
        {"asin": "B2", "title": "Cup", "brand": "b"},
        {"asin": "B1", "title": "<i>Pot</i>", "description": ["big &amp;", "<p>red</p>"]},
    )
    rows = pq.read_table(out / "items.parquet").to_pylist()
    assert [(row["item_id"], row["title"], row["line"]) for row in rows] == [
        ("B1", "Pot", 4),
        ("B2", "Mug", 2),
    ]
    assert (rows[0]["description"], rows[0]["description_raw"]) == ("big & red", ["big &amp;", "<p>red</p>"])
    assert rows[0]["title_raw"] == "<i>Pot</i>"
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [(row["item_id"], row["line"], row["reason"]) for row in rejected] == [
        ("B2", 1, "duplicate_asin"),
        ("B2", 3, "duplicate_asin"),
    ]


def test_items_are_sorted_bytewise(stage: Stage) -> None:
    ids = ["b", "B", "é", "a1", "a", "\U0001f600", "\uffff"]
    out = _items(stage, *({"asin": name} for name in ids))
    assert pq.read_table(out / "items.parquet")["item_id"].to_pylist() == sorted(ids, key=str.encode)
