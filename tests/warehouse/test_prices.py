"""Prices: read as people read them, kept as they are, and counted by reason where they cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warehouse.core.items import build_items
from warehouse.core.prices import Price, read_price
from warehouse.raw.metadata import ingest_metadata


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("$67.61", Price(67.61, 67.61, "USD")),
        ("$10.00 - $20.00", Price(10, 20, "USD")),
        ("$20 to 10", Price(10, 20, "USD")),
        (" \n$1,234.56 ", Price(1234.56, 1234.56, "USD")),
        ("$1,234", Price(1234, 1234, "USD")),
        ("12,50", Price(12.5, 12.5, None)),
        ("1.234,56 €", Price(1234.56, 1234.56, "EUR")),
        ("1 234 567,5 EUR", Price(1234567.5, 1234567.5, "EUR")),
        ("1'234.50 CHF", Price(1234.5, 1234.5, "CHF")),
        ("&pound;5\xa0", Price(5, 5, "GBP")),
        ("CDN$ 5.00", Price(5, 5, "CAD")),
        ("4.5", Price(4.5, 4.5, None)),
        ("0.125", Price(0.125, 0.125, None)),
        ("0", Price(0, 0, None)),
        ("", None),
        ("\t ", None),
        (".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{background-color:#fffbf3}", "no_amount"),
        ("\n\n\n<script>var price = 5</script>", "no_amount"),
        ("nan", "no_amount"),
        ("inf", "no_amount"),
        ("1e5", "no_amount"),
        ("$5.00 $6.00", "no_amount"),
        ("5 - 6 - 7", "no_amount"),
        ("٣", "no_amount"),
        ("-$5.00", "negative"),
        ("$-5", "negative"),
        ("$5 - -6", "negative"),
        ("1.234", "unclear_number"),
        ("1,00,000", "unclear_number"),
        ("9" * 40, "unclear_number"),
        ("$5 each", "unknown_currency"),
        ("5 XYZ", "unknown_currency"),
        ("$5 - €6", "two_currencies"),
    ],
)
def test_a_price_is_read_or_has_a_reason(text: str, price: Price | str | None) -> None:
    assert read_price(text) == price


@given(st.integers(0, 10**11), st.integers(0, 99))
def test_an_amount_is_read_as_shops_write_it(whole: int, cents: int) -> None:
    amount = float(f"{whole}.{cents:02}")
    assert read_price(f"${whole:,}.{cents:02}") == Price(amount, amount, "USD")
    assert read_price(f"{whole:,}.{cents:02}".translate(str.maketrans(",.", ".,")) + "€") == Price(
        amount, amount, "EUR"
    )


@given(st.text(alphabet="0123456789.,'- $€£toXYZ\u2212\u2013\xa0{<", max_size=70) | st.text(max_size=70))
@example("1 " * 32)
@example("-" * 64)
@example("x" * 4_000_000)
@example("$" + " " * 4_000_000)
def test_any_text_is_a_price_or_has_a_reason(text: str) -> None:
    found = read_price(text)
    if isinstance(found, Price):
        assert 0 <= found.lowest <= found.highest < 1e12
    elif found is None:
        assert not text.strip()


def test_prices_are_kept_as_they_are_and_counted(stage: Callable[[], Path]) -> None:
    """Through both steps, from lines of every shape that a product has."""
    style = ".a-box-inner{background-color:#fff}" * 1000
    given: list[tuple[Any, str, tuple[float | None, float | None, str | None, str | None]]] = [
        ("$10.00 - $20.00", "$10.00 - $20.00", (10, 20, "USD", None)),
        (style, style, (None, None, None, "no_amount")),
        (4.5, "4.5", (4.5, 4.5, None, None)),
        (7, "7", (7, 7, None, None)),
        (float("nan"), "nan", (None, None, None, "no_amount")),
        (-3, "-3", (None, None, None, "negative")),
        (["$1", ""], "$1", (1, 1, "USD", None)),
        ({"amount": 1}, "", (None, None, None, None)),
        (None, "", (None, None, None, None)),
        (True, "", (None, None, None, None)),
    ]
    products = [{"asin": f"B{n}", "price": price} for n, (price, _, _) in enumerate(given)]
    raw, core = stage(), stage()
    source = raw.with_suffix(".json")
    source.write_text("\n".join(map(json.dumps, [*products, {"asin": "C"}])))
    assert ingest_metadata(source, raw).rows == len(given) + 1
    summary = build_items(raw / "metadata.parquet", core)
    rows = pq.read_table(core / "items.parquet").to_pylist()
    columns = ("price_lowest", "price_highest", "price_currency", "price_unread")
    assert [(row["price_raw"], tuple(row[name] for name in columns)) for row in rows] == [
        *((raw_text, read) for _, raw_text, read in given),
        ("", (None, None, None, None)),
    ]
    assert summary.with_price == 4
    assert summary.unread_prices == {"negative": 1, "no_amount": 2}


def test_the_prices_of_real_products_are_style_sheets(shared: Path, stage: Callable[[], Path]) -> None:
    raw, core = stage(), stage()
    ingest_metadata(shared / "data" / "amazon_2018" / "meta_Magazine_Subscriptions.json.gz", raw)
    summary = build_items(raw / "metadata.parquet", core)
    assert summary.with_price == 0
    assert summary.unread_prices == {"no_amount": 16}
