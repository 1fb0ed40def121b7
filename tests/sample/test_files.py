"""The files: layout, determinism, dirt."""

import ast
import csv
import gzip
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.sample import DOMAINS, write_sample
from features.sample.pictures import SIZE, draw_picture
from features.sample.products import KINDS, draw_products
from features.sample.silhouettes import SILHOUETTES

pytestmark = pytest.mark.long
NAMES = [domain.name for domain in DOMAINS]


def _digest(raw: Path) -> dict[str, str]:
    return {
        str(path.relative_to(raw)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(raw.rglob("*"))
        if path.is_file()
    }


def _ratings(raw: Path, name: str) -> list[list[str]]:
    with (raw / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def _readable(row: list[str]) -> bool:
    return len(row) == 4 and row[2].replace(".", "").isdigit() and row[3].isdigit()


def _metadata_lines(raw: Path, name: str) -> list[str]:
    with gzip.open(raw / f"meta_{name}.json.gz", "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def test_one_seed_writes_the_same_bytes_and_another_does_not(tiny, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()
    other.mkdir()
    assert write_sample(again, size="tiny") == tiny.summary
    assert _digest(again) == _digest(tiny.raw)
    write_sample(other, seed=1, size="tiny")
    assert not set(_digest(other).values()) & {v for k, v in _digest(tiny.raw).items() if "images" not in k}


def test_nothing_but_the_raw_layout_is_written(tiny):
    expected = {f"{name}.csv" for name in NAMES} | {f"meta_{name}.json.gz" for name in NAMES} | {"images"}
    assert {path.name for path in tiny.raw.iterdir()} == expected
    assert {path.name for path in (tiny.raw / "images").iterdir()} == set(NAMES)


def test_progress_counts_every_item(tmp_path):
    seen: list[tuple[int, int]] = []
    summary = write_sample(tmp_path, size="tiny", progress=lambda done, total: seen.append((done, total)))
    total = sum(domain.items for domain in summary.domains.values())
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_roles():
    assert [domain.role for domain in DOMAINS] == ["source"] * 3 + ["target"] * 2
    assert all(set(domain.accessory.values()) == set(domain.kinds) for domain in DOMAINS)
    assert set(KINDS) == set(SILHOUETTES)
    assert len(set(KINDS)) == len(KINDS), "every domain has its own kinds"


@pytest.mark.parametrize("name", NAMES)
def test_ratings_and_their_dirt(tiny, name):
    summary = tiny.summary.domains[name]
    rows = _ratings(tiny.raw, name)
    good = [tuple(row) for row in rows if _readable(row)]
    dirt = summary.dirt
    assert len(rows) == summary.rating_rows
    assert len(rows) - len(good) == dirt["unreadable_ratings"]
    distinct = dict.fromkeys(good)
    assert len(good) - len(distinct) == dirt["exact_duplicates"] > 0
    assert len(distinct) == summary.purchases + dirt["repeated_pairs"]
    pairs = Counter((item, user) for item, user, _, _ in distinct)
    assert sum(count - 1 for count in pairs.values()) == dirt["repeated_pairs"] > 0
    assert dirt["equal_times"] > 0
    times = [int(time) for _, _, _, time in distinct]
    assert all(time % 86_400 == 0 for time in times)
    assert min(times) >= 1_388_534_400, "2014-01-01"
    assert max(times) < 1_546_300_800, "2019-01-01"
    assert times == sorted(times)
    assert {rating for _, _, rating, _ in distinct} <= {"1.0", "2.0", "3.0", "4.0", "5.0"}


@pytest.mark.parametrize("name", NAMES)
def test_metadata_and_its_dirt(tiny, name):
    summary = tiny.summary.domains[name]
    lines, dirt = _metadata_lines(tiny.raw, name), summary.dirt
    records, literals, unreadable = [], 0, 0
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            try:
                records.append(ast.literal_eval(line))
                literals += 1
            except (ValueError, SyntaxError):
                unreadable += 1
    assert len(lines) == summary.metadata_rows
    assert (literals, unreadable) == (dirt["python_literals"], dirt["unreadable_metadata"])
    asins = Counter(record["asin"] for record in records)
    assert sum(count - 1 for count in asins.values()) == dirt["duplicate_asins"]
    assert len(asins) == summary.items - dirt["missing_metadata"]
    assert sum(record["title"].startswith("<span ") for record in records) == dirt["span_titles"]
    assert sum(record["title"].startswith("<b>") for record in records) == dirt["html_titles"]
    assert sum(not record["title"] for record in records) == dirt["empty_titles"]
    assert sum(not record["brand"] for record in records) == dirt["empty_brands"]
    assert sum("image" in record for record in records) == dirt["old_image_field"]
    assert {type(record["description"]) for record in records} == {str, list}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_their_dirt(tiny, name):
    summary, dirt = tiny.summary.domains[name], tiny.summary.domains[name].dirt
    urls = {}
    for line in _metadata_lines(tiny.raw, name):
        if line.startswith('{"category"') and line.endswith("}"):
            record = json.loads(line)
            listed = record.get("imageURLHighRes") or record.get("imageURL") or record.get("image") or []
            urls[record["asin"]] = listed[0] if listed else None
    found: Counter[str] = Counter()
    for asin, url in urls.items():
        if url is None:
            found["no_picture_url"] += 1
            continue
        assert re.fullmatch(rf"images/{name}/{asin}\.(jpg|png)", url)
        path = tiny.raw / url
        if not path.exists():
            found["absent_pictures"] += 1
            continue
        try:
            with Image.open(path) as image:
                image.load()
        except OSError:
            page = path.read_bytes().startswith(b"<html")
            found["pages_for_pictures" if page else "truncated_pictures"] += 1
            continue
        if image.size == (1, 1):
            found["one_pixel_pictures"] += 1
        else:
            assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    assert found == {flaw: dirt[flaw] for flaw in found}
    assert len(found) == 5, "each flaw of pictures is there"
    assert sum(path.is_file() for path in (tiny.raw / "images" / name).iterdir()) == summary.pictures


def test_every_kind_looks_like_itself_only():
    rng = np.random.Generator(np.random.PCG64(0))
    product = draw_products(KINDS, 1, rng)[0]
    shapes = {}
    for kind in KINDS:
        twin = type(product)(kind, "red", "plain", "matte", "black", "Hollis")
        still = np.random.Generator(np.random.PCG64(3))
        shapes[kind] = np.asarray(draw_picture(twin, still), np.int16)
    for kind, picture in shapes.items():
        others = min(np.abs(picture - other).mean() for name, other in shapes.items() if name != kind)
        assert others > 5, f"{kind} is hard to tell from another kind"
