"""Writes the sample catalogue: ratings, metadata and pictures in the raw layout of Amazon Review 2018.

This module defines the file formats, the identifiers, and small, counted numbers of the flaws that real files have.
`features.sample.people` draws the purchases that the files are made from.

    <Domain>.csv              item, user, rating, unix seconds (whole days); no header; oldest first
    meta_<Domain>.json.gz     one JSON object per line
    images/<Domain>/<asin>.jpg|png     named by the URL fields, relative to the folder of the files
"""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from features.sample.people import Purchase, Shop, Taste, draw_purchases, draw_taste, open_shop
from features.sample.pictures import draw_picture
from features.sample.products import DOMAINS, SampleDomain
from features.sample.texts import write_text

Size = Literal["demo", "tiny"]

_DAY: Final = 86_400
_FIRST_DAY: Final = 16_071  # 2014-01-01, in days since 1970
_DAYS: Final = 1_826  # to the end of 2018


@dataclass(frozen=True)
class _Extent:
    users: int
    items: int
    purchases: float  # mean per user


_EXTENTS: Final[dict[Size, dict[str, _Extent]]] = {
    "demo": {"source": _Extent(740, 300, 11.5), "target": _Extent(420, 200, 9.5)},
    "tiny": {"source": _Extent(150, 60, 11.5), "target": _Extent(90, 45, 9.5)},
}
_FEWEST, _MOST = 5, 30  # purchases of a regular user
_STARS: Final = (1,) * 4 + (2,) * 5 + (3,) * 11 + (4,) * 25 + (5,) * 55  # ratings carry no signal
_CASUAL = 0.08  # additional users, as a share, who buy fewer than `_FEWEST` times, so that a 5-core drops them
_PEOPLE_PER_USER: Final = 2  # the people of the sample, per user of a source domain: some shop in several domains


@dataclass(frozen=True)
class DomainSummary:
    """What was written for one domain. `dirt` counts the flaws in the files, by their names."""

    role: str
    users: int
    items: int
    purchases: int
    rating_rows: int
    metadata_rows: int
    pictures: int
    dirt: dict[str, int]


@dataclass(frozen=True)
class SampleSummary:
    """What `write_sample` wrote, per domain."""

    seed: int
    size: str
    domains: dict[str, DomainSummary]


@dataclass(frozen=True)
class Customer:
    """One user of a domain; `first_day` counts from 1970, `purchases` are in order."""

    user_id: str
    taste: Taste
    first_day: int
    purchases: tuple[Purchase, ...]


@dataclass(frozen=True)
class Market:
    """A domain before its files are written: the shop, the asins of its N items, and the customers."""

    shop: Shop
    asins: tuple[str, ...]
    customers: tuple[Customer, ...]


def draw_market(domain: SampleDomain, seed: int = 0, size: Size = "demo") -> Market:
    """Draw one domain. The same arguments always give the same market. A person has the same taste in all domains."""
    number = DOMAINS.index(domain)
    extent = _EXTENTS[size][domain.role]
    rng = _generator(seed, 1, number)
    shop = open_shop(domain, extent.items, rng)
    asins = tuple(f"S{number}{int(code):08d}" for code in rng.choice(10**8, extent.items, replace=False))
    people = _PEOPLE_PER_USER * _EXTENTS[size]["source"].users
    regulars = extent.users
    users = regulars + round(_CASUAL * regulars)
    customers = []
    for place, person in enumerate(rng.choice(people, users, replace=False)):
        count = _FEWEST + int(rng.geometric(1 / (extent.purchases - _FEWEST + 1))) - 1
        if place >= regulars:
            count = int(rng.integers(1, _FEWEST))
        taste = draw_taste(_generator(seed, 0, int(person)))
        bought = draw_purchases(shop, taste, min(count, _MOST), rng)
        bought = [purchase for purchase in bought if purchase.day < _DAYS]
        first_day = _FIRST_DAY + int(rng.integers(_DAYS - bought[-1].day))
        customers.append(Customer(_user_id(int(person)), taste, first_day, tuple(bought)))
    return Market(shop, asins, tuple(customers))


def write_sample(
    raw: Path,
    seed: int = 0,
    size: Size = "demo",
    progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Write the raw files of all `DOMAINS` into the existing folder `raw`. The same arguments give the same bytes.

    `progress(done, total)` counts pictures, which take most of the time.
    """
    total = sum(_EXTENTS[size][domain.role].items for domain in DOMAINS)
    done = 0
    domains = {}
    for number, domain in enumerate(DOMAINS):
        market = draw_market(domain, seed, size)
        rng = _generator(seed, 2, number)
        flaws = _draw_flaws(market, rng)
        rating_rows, rating_dirt = _write_ratings(raw / f"{domain.name}.csv", market, rng)
        metadata_rows, metadata_dirt = _write_metadata(raw / f"meta_{domain.name}.json.gz", market, flaws, rng)
        pictures = 0
        for item, picture in enumerate(_pictures(market, flaws, rng)):
            path = raw / _picture_path(market, item)
            path.parent.mkdir(parents=True, exist_ok=True)
            if picture is not None:
                path.write_bytes(picture)
                pictures += 1
            done += 1
            if progress:
                progress(done, total)
        domains[domain.name] = DomainSummary(
            role=domain.role,
            users=len(market.customers),
            items=len(market.asins),
            purchases=sum(len(customer.purchases) for customer in market.customers),
            rating_rows=rating_rows,
            metadata_rows=metadata_rows,
            pictures=pictures,
            dirt={**rating_dirt, **{name: len(items) for name, items in flaws.items()}, **metadata_dirt},
        )
    return SampleSummary(seed, size, domains)


def _user_id(person: int) -> str:
    """An identifier whose order has no meaning. It is unique, because 7919 is coprime to a million."""
    return f"A{person * 7_919 % 10**6:06d}SAMPLE"


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


# Ratings ------------------------------------------------------------------------------------------------


def _write_ratings(path: Path, market: Market, rng: np.random.Generator) -> tuple[int, dict[str, int]]:
    """Write the ratings, oldest first; purchases of the same day keep their order. Return rows and flaws."""
    timed: list[tuple[int, str]] = []
    equal_times = repeats = 0
    for customer in market.customers:
        days = [customer.first_day + purchase.day for purchase in customer.purchases]
        equal_times += sum(a == b for a, b in pairwise(days))
        for day, purchase in zip(days, customer.purchases, strict=True):
            asin = market.asins[purchase.item]
            timed.append((day, _rating_row(asin, customer.user_id, day, rng)))
            if rng.random() < 0.006:  # the same user rates the same item again, later
                later = min(day + int(rng.integers(1, 30)), _FIRST_DAY + _DAYS - 1)
                timed.append((later, _rating_row(asin, customer.user_id, later, rng)))
                repeats += 1
    rows = [row for _, row in sorted(timed, key=lambda entry: entry[0])]
    copies = _few(len(rows), 0.01)
    for source in rng.choice(len(rows), copies, replace=False):
        rows.insert(int(rng.integers(source + 1, len(rows) + 1)), rows[int(source)])
    asin, user = market.asins[0], market.customers[0].user_id
    unreadable = (
        f"{asin},{user}",
        f"{asin},{user},five,1400112000",
        f"{asin},{user},4.0,yesterday",
        f"{asin},{user},3.0,",
        f"{asin},{user},5.0,1400112000,surplus",
    )
    for row in unreadable:
        rows.insert(int(rng.integers(1, len(rows))), row)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="\n")
    return len(rows), {
        "equal_times": equal_times,
        "repeated_pairs": repeats,
        "exact_duplicates": copies,
        "unreadable_ratings": len(unreadable),
    }


def _rating_row(asin: str, user_id: str, day: int, rng: np.random.Generator) -> str:
    stars = _STARS[int(rng.integers(len(_STARS)))]
    return f"{asin},{user_id},{stars}.0,{day * _DAY}"


# Flaws of items -----------------------------------------------------------------------------------------

_FLAWS: Final = {
    "missing_metadata": 0.015,
    "span_titles": 0.02,
    "html_titles": 0.03,
    "empty_titles": 0.01,
    "empty_brands": 0.02,
    "empty_descriptions": 0.02,
    "old_image_field": 0.02,
    "duplicate_asins": 0.02,
    "no_picture_url": 0.02,
    "absent_pictures": 0.01,
    "truncated_pictures": 0.01,
    "one_pixel_pictures": 0.01,
    "pages_for_pictures": 0.005,
    "python_literals": 0.0,
}
"""The share of items with each flaw. At least one item has each flaw, and no item has two."""

Flaws = dict[str, frozenset[int]]


def _draw_flaws(market: Market, rng: np.random.Generator) -> Flaws:
    order = [int(item) for item in rng.permutation(len(market.asins))]
    flaws = {}
    for name, share in _FLAWS.items():
        count = _few(len(market.asins), share)
        flaws[name], order = frozenset(order[:count]), order[count:]
    return flaws


def _few(total: int, share: float) -> int:
    return max(1, round(share * total))


# Metadata -----------------------------------------------------------------------------------------------


def _write_metadata(path: Path, market: Market, flaws: Flaws, rng: np.random.Generator) -> tuple[int, dict[str, int]]:
    """Write one line per item, as gzip without a time stamp. Return rows and the flaws that belong to no item."""
    lines = []
    for item, asin in enumerate(market.asins):
        record = _record(market, item, asin, flaws, rng)
        if item in flaws["missing_metadata"]:
            continue
        lines.append(repr(record) if item in flaws["python_literals"] else json.dumps(record, ensure_ascii=False))
        if item in flaws["duplicate_asins"]:  # the same asin again, with less content
            lines.append(json.dumps({**record, "title": record["title"] + " (renewed)", "description": []}))
    unreadable = (
        lines[0][: len(lines[0]) // 2],
        '{"asin": ',
        "<html><body>503 Service Unavailable</body></html>",
    )
    for line in unreadable:
        lines.insert(int(rng.integers(1, len(lines))), line)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
    path.write_bytes(packed.getvalue())
    return len(lines), {"unreadable_metadata": len(unreadable)}


def _record(market: Market, item: int, asin: str, flaws: Flaws, rng: np.random.Generator) -> dict[str, Any]:
    product = market.shop.products[item]
    text = write_text(product, rng)
    title, brand, description = text.title, product.brand, list(text.description)
    if item in flaws["span_titles"]:
        title = '<span class="a-size-medium a-color-secondary"'
    elif item in flaws["html_titles"]:
        title = f"<b>{title.replace(' ', '&nbsp;', 1)}</b> &amp; free shipping<br />"
    elif item in flaws["empty_titles"]:
        title = ""
    if item in flaws["empty_brands"]:
        brand = ""
    if item in flaws["empty_descriptions"]:
        description = []
    urls = [] if item in flaws["no_picture_url"] else [_picture_path(market, item)]
    record: dict[str, Any] = {
        "category": ["Samples &amp; Tests", product.kind.capitalize()],
        "description": " ".join(description) if rng.random() < 0.1 else description,
        "title": title,
        "brand": brand.replace("&", "&amp;"),
        "price": f"${rng.integers(3, 90)}.{rng.integers(100):02d}" if rng.random() < 0.8 else ".a-box-inner{height:0}",
        "asin": asin,
    }
    if item in flaws["old_image_field"]:
        return {**record, "image": urls}
    return {**record, "imageURL": urls, "imageURLHighRes": urls if rng.random() < 0.8 else []}


# Pictures -----------------------------------------------------------------------------------------------


def _picture_path(market: Market, item: int) -> str:
    """The path of the picture, relative to the raw folder; every tenth picture is a PNG, the others are JPEG."""
    return f"images/{market.shop.domain.name}/{market.asins[item]}.{'png' if item % 10 == 9 else 'jpg'}"


def _pictures(market: Market, flaws: Flaws, rng: np.random.Generator) -> list[bytes | None]:
    """The bytes of every item's picture file, or None if the item has no file."""
    files: list[bytes | None] = []
    for item, product in enumerate(market.shop.products):
        image = draw_picture(product, rng)
        if item in flaws["one_pixel_pictures"]:
            image = Image.new("RGB", (1, 1), "white")
        packed = io.BytesIO()
        if _picture_path(market, item).endswith("png"):
            image.save(packed, "PNG")
        else:
            image.save(packed, "JPEG", quality=90)
        content: bytes | None = packed.getvalue()
        if item in flaws["no_picture_url"] or item in flaws["absent_pictures"]:
            content = None
        elif item in flaws["truncated_pictures"]:
            content = packed.getvalue()[: len(packed.getvalue()) // 3]
        elif item in flaws["pages_for_pictures"]:
            content = b"<html><body>404 Not Found</body></html>\n"
        files.append(content)
    return files
