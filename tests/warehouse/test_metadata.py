"""raw/metadata and core/items: messy products, duplicates by one rule, text without HTML."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.metadata import write_metadata
from tests.warehouse.agreement import assert_agrees
from warehouse.core.items import build_items, clean
from warehouse.errors import DataError
from warehouse.raw import lines as raw
from warehouse.raw import records
from warehouse.raw.metadata import _DECODER, MetadataLine, ingest_metadata, read_line

Stage = Callable[[], Path]


def product(line: bytes) -> MetadataLine:
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
    assert product(json.dumps(messy).encode()) == MetadataLine(
        "B001",
        "A title",
        "",
        ["one text"],
        ["Home", "Mugs", "Cups"],
        ["http://c", "http://a", "http://b", "http://d"],
        ".a-box-inner{background-color:#fff}",
    )
    there = product(b'{"asin": "1", "imageURL": [" //host/a.jpg", "/b.jpg"], "image": "https://host/a.jpg"}')
    assert there.image_urls == ["https://host/a.jpg", "/b.jpg"], "an address without a scheme is of the web"
    assert product(b'{"asin": "1"}') == MetadataLine("1", "", "", [], [], [])
    assert product(b'{"asin": "1", "title": 1984}').title == "1984"
    assert product(rb'{"asin": "1", "title": "\ud83d\ude00 \ud83d"}').title == "\U0001f600 \ufffd"


def test_the_fast_reader_shapes_the_fields_alike(stage: Stage) -> None:
    lines = [
        b'{"asin": "B1", "imageURL": ["http://a ", "http://a"], "imageURLHighRes": ["http://b", "http://a"]}',
        b'{"asin": "B1", "imageURL": ["http://b"], "imageURLHighRes": ["\\u00a0http://a", "http://a"]}',
        b'{"asin": "B2", "image": ["http://b"], "imageURL": ["http://a", "", "http://b"], "imUrl": "http://c"}',
        b'{"asin": "B3", "title": " ", "brand": "\\u2003", "description": ["", "a ", "\\n", " b"], "category": []}',
        b'{"asin": "B4", "categories": ["a", "b", "a", ""], "category": [], "description": "one", "imUrl": " "}',
        b'{"asin": "B5", "title": "\\u2003a", "category": ["a", "\\u001f", "a"], "imageURL": null}',
        b'{"asin": "B6", "description": [], "category": null, "imageURL": []}',
        b'{"asin": "B7", "price": "\\u2003$1 "}',
        b'{"asin": "B8", "price": " "}',
        b'{"asin": "B9", "imageURL": ["//host/a", "https://host/a", "/b"], "imageURLHighRes": ["//host/c"]}',
    ]
    for content in [*lines, b"\n".join(lines)]:
        assert None not in next(records.decode(raw.Block(1, content), _DECODER)).records
        out = stage()
        source = out.with_suffix(".json")
        source.write_bytes(content)
        assert_agrees("metadata", source, out, content)


def test_an_old_line_is_a_python_literal() -> None:
    line = b"""{'asin': 'B001', 'title': "It's", 'description': None, 'imUrl': 'http://a', 'price': 4.5}"""
    assert read_line(line) == (MetadataLine("B001", "It's", "", [], [], ["http://a"], "4.5"), True)


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
    source.write_bytes(gzip.compress(b"\n".join([good, *lines]), mtime=0))
    summary = ingest_metadata(source, out)
    expected = 1 + len(lines) - (lines[-1] == b"")  # an empty last line is the end of the one before
    assert summary.lines == expected == summary.rows + summary.quarantined
    numbers = [
        number
        for name in ("metadata", "quarantine")
        for number in pq.read_table(out / f"{name}.parquet")["line"].to_pylist()
    ]
    assert sorted(numbers) == list(range(1, expected + 1))


@pytest.mark.parametrize("content", [None, b"", gzip.compress(b'{"asin": "B1"}' * 99, mtime=0)[:30], b"[]\n[]"])
def test_an_unusable_file_is_an_error_that_names_it(stage: Stage, content: bytes | None) -> None:
    out = stage()
    source = out.with_suffix(".json.gz")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError) as error:
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


_KEYS = [b'"%s"' % name for name in b"asin title description category categories imageURL image price x".split()]
_TEXTS = [
    b'"B1"',
    b'"  http://a "',
    b'""',
    b'" "',
    b'"\\u00a0"',
    '"\x85"'.encode(),
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\ud83d\\ude00"',
]
_VALUES = [
    *_TEXTS,
    *b"null true 1 -0 1.5 1e5 1e999 01 1. .5 +1 -1 0x1 NaN Infinity -Infinity {} [] nul [1,] {1:2}".split(),
    *(b"9" * n for n in (4300, 4301)),
    *(b"[" * n + b"]" * n for n in (31, 33, 500, 501)),
    *(b'{"a":' * n + b"1" + b"}" * n for n in (499, 500)),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"a\tb"', b'"a\x0bb"', b'"a\x7f"', b"'B1'", b'"\\x"', b'"\\u12"', b'"[[[["' * 200),
    *(b'"' + b"B" * n + b'"' for n in (99, 100, 255, 256)),
]
_value = st.one_of(
    st.sampled_from(_VALUES),
    st.lists(st.sampled_from([b'"a"', b'"b"', *_TEXTS]), max_size=4).map(lambda texts: b"[" + b",".join(texts) + b"]"),
    st.lists(st.sampled_from(_VALUES), max_size=4).map(lambda values: b"[" + b", ".join(values) + b"]"),
)
_key = st.sampled_from([*_KEYS, b'"asin"', b'"\\u0061sin"', b'"x\xff"', b"'asin'", b"asin"])
_pair = st.tuples(_key, _value).map(b": ".join)
_around = st.sampled_from(
    [b""] * 12 + [b" ", b"\t", b"\r", b"\x0b", b"x", b"{}", b' {"asin": "B2"}', b"\xef\xbb\xbf", b"\xc2\xa0"]
)
_line = st.tuples(
    _around,
    st.tuples(st.just(b'"asin": "B1"'), st.lists(_pair, max_size=4)).map(
        lambda pairs: b", ".join([pairs[0], *pairs[1]])
    ),
    _around,
).map(lambda parts: parts[0] + b"{" + parts[1] + b"}" + parts[2])


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_line, min_size=1, max_size=12), st.sampled_from([1, 300, 1 << 20]), st.booleans())
def test_the_fast_reader_agrees_with_the_plain_one(stage: Stage, lines: list[bytes], batch: int, ends: bool) -> None:
    out = stage()
    content = b"\n".join([b'{"asin": "B0"}', *lines]) + b"\n" * ends
    source = out.with_suffix(".json")
    source.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BATCH_BYTES", batch)
        assert_agrees("metadata", source, out, content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_product = st.fixed_dictionaries({"asin": st.text(min_size=1, max_size=12) | _json}, optional={
    name: st.text(max_size=30) | st.lists(st.text(max_size=30), max_size=4) | _json
    for name in ("title", "brand", "description", "category", "imageURL", "imageURLHighRes", "image", "imUrl", "extra")
})  # fmt: skip


@pytest.mark.long
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_product, min_size=1, max_size=8), st.booleans())
def test_the_fast_reader_agrees_on_any_json(stage: Stage, products: list[dict[str, object]], escaped: bool) -> None:
    out = stage()
    lines = [json.dumps(product, ensure_ascii=escaped) for product in [{"asin": "B0"}, *products]]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    source = out.with_suffix(".json")
    source.write_bytes(content)
    assert_agrees("metadata", source, out, content)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'{"asin": "B1"} {"asin": "B2"}\n\n{"asin": "B3"}', [3]),
        (b'{"asin": "B1"}{"asin": "B2"}\n{"asin":\n"B3"}\n{"asin": "B4"}', [4]),
        (b'{"asin": "B1", "x": {}\n}\n{"asin": "B2"}{"asin": "B3"}\n{"asin": "B4"}', [4]),
        (b'{"asin": "B1", "x":\n{}}\n{"asin": "B2"}{"asin": "B3"}\n{"asin": "B4"}', [4]),
        (b'\n{"asin": "B1"}\n{"asin": "B2"}{"asin": "B3"}', [2]),
    ],
)
def test_products_that_share_or_span_lines_do_not_shift_the_others(
    stage: Stage, content: bytes, lines: list[int]
) -> None:
    """In each there are as many products as lines."""
    content += b"\n"  # so that all of it is one block
    out = stage()
    source = out.with_suffix(".json")
    source.write_bytes(content)
    assert_agrees("metadata", source, out, content)
    assert pq.read_table(out / "metadata.parquet")["line"].to_pylist() == lines


def test_the_bytes_do_not_depend_on_blocks_and_batches(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stage() / "meta_X.json.gz"
    write_metadata(source, 10_000_000)
    whole, pieces = stage(), stage()
    ingest_metadata(source, whole)
    monkeypatch.setattr(raw, "_BLOCK_BYTES", 100_000)
    monkeypatch.setattr(records, "_BATCH_BYTES", 30_000)
    ingest_metadata(source, pieces)
    assert (whole / "metadata.parquet").read_bytes() == (pieces / "metadata.parquet").read_bytes()


def test_a_line_is_cut_only_when_it_is_too_long(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_BLOCK_BYTES", 1 << 16)
    longest = records.LONGEST_LINE
    good = b'{"asin": "B1"}'
    just = good + b" " * (longest - len(good))
    # Cut where the reader cuts, the first of the last three would read as a product.
    lines = [just, just + b"\r" + b"x" * 99, just + b" ", just + b"\r\r" * 9, good]
    for mark in (b"", b"\xef\xbb\xbf"):
        for first in (b"", lines[1] + b"\n"):
            content = mark + first + b"\n".join(lines) + b"\r\n"
            out = stage()
            source = out.with_suffix(".json")
            source.write_bytes(content)
            assert_agrees("metadata", source, out, content)


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
