"""A raw file as a whole in another form: the error names all likely causes at once, and counts in words."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warehouse.errors import DataError
from warehouse.raw.metadata import ingest_metadata
from warehouse.raw.ratings import ingest_ratings
from warehouse.raw.reviews import ingest_reviews

ROWS = [(f"B{n:03}", f"A{n}", "5.0", str(1_700_000_000 + n)) for n in range(3)]
MILLISECONDS = [(item, user, rating, f"{time}123") for item, user, rating, time in ROWS]


def _csv(rows: list[Any], delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(rows)
    return text.getvalue()


def _refusal(read: Callable[[Path, Path], Any], source: Path, text: str) -> str:
    source.write_text(text)
    with pytest.raises(DataError) as error:
        read(source, source.parent)
    said = str(error.value)
    assert said.startswith(f"{source}: none of its ")
    assert "{" not in said
    return said


QUOTES = "fields are in quotation marks, which count as part of them"
HEADER = "line 1 is a header: remove it"
MILLIS = "column 4 is in milliseconds: divide it by 1000"
SWAPPED = "user and item are swapped: put the item first"
OF_2023 = "the layout of the files of 2023"

RATINGS: dict[str, tuple[str, list[str]]] = {
    "all quoted": (_csv(ROWS, quoting=csv.QUOTE_ALL), [QUOTES]),
    "2023": (
        _csv([("user_id", "parent_asin", "rating", "timestamp"), *((u, i, r, t) for i, u, r, t in MILLISECONDS)]),
        [HEADER, OF_2023, "its columns are user,item,rating,time: put them in the order item,user,rating,time", MILLIS],
    ),
    "header and milliseconds": (_csv([("item", "user", "rating", "time"), *MILLISECONDS]), [HEADER, MILLIS]),
    "swapped and milliseconds": (_csv([(u, i, r, t) for i, u, r, t in MILLISECONDS]), [MILLIS, SWAPPED]),
    "all at once": (
        _csv([("user", "item", "rating", "time"), *((u, i, r, t) for i, u, r, t in MILLISECONDS)], ";", csv.QUOTE_ALL),
        ["separated by semicolons: separate them by commas", QUOTES, HEADER, "its columns are user,item", MILLIS],
    ),
    "three columns": (
        _csv([(i, u, t) for i, u, _, t in ROWS]),
        ["its lines have 3 fields, not 4: a shop without stars writes the same rating in every line"],
    ),
    "dates": (_csv([(i, u, r, "2024-05-01 10:00") for i, u, r, _ in ROWS]), ["column 4 has dates: write times as"]),
    "time before rating": (_csv([(i, u, t, r) for i, u, r, t in ROWS]), ["rating and time are swapped: put the time"]),
    "time before a rating that is no number": (_csv([(i, u, t, "x") for i, u, _, t in ROWS]), []),
}


@pytest.mark.parametrize("case", RATINGS)
def test_a_ratings_file_of_another_form_is_told_all_that_is_likely_wrong(case: str, tmp_path: Path) -> None:
    (tmp_path / "meta_Shop.json").write_text("".join(json.dumps({"asin": item}) + "\n" for item, *_ in ROWS))
    text, expected = RATINGS[case]
    said = _refusal(ingest_ratings, tmp_path / "Shop.csv", text)
    assert said.endswith(
        "A ratings file has the columns item,user,rating,unix time and no header: give a file of this form"
    )
    _, _, causes = said.partition(" Likely cause")
    causes = causes.partition(": ")[2].partition(". A ratings file")[0]
    found = causes.split("; ") if causes else []
    assert len(found) == len(expected)
    for cause, part in zip(found, expected, strict=True):
        assert part in cause


def test_counts_are_words(tmp_path: Path) -> None:
    said = _refusal(ingest_ratings, tmp_path / "Shop.csv", "a,b,x,1\na,b,x,2\na,b\n")
    assert "is a rating (2 lines: rating is not a finite number; 1 line: wrong number of fields)" in said


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"parent_asin": "B1", "title": "x"}\n', OF_2023),
        ('{"parent_asin": "B1", "title": "x"}\n', "no asin (they have parent_asin, title): rename the fields"),
        ('{"sku": "1"}\n{"sku": "2", "name": "y"}\n', "its objects have no asin (they have sku, name): rename"),
        ('{"asin": 5}\n', "asin is a number: write it as text"),
        ('[{"asin": "1"},\n {"asin": "2"}]\n', "it is one JSON array: write each object as a line of its own"),
        ('{\n "asin": "1"\n}\n', "its objects go over several lines"),
        ("asin,title\n1,x\n", "its lines are no JSON: if it is CSV"),
    ],
)
def test_a_metadata_file_of_another_form_is_told_what_is_likely_wrong(text: str, cause: str, tmp_path: Path) -> None:
    said = _refusal(ingest_metadata, tmp_path / "meta_Shop.json", text)
    assert cause in said
    assert said.endswith("A metadata file has one JSON object with an asin per line: give a file of this form")


def test_reviews_of_2023_are_named(tmp_path: Path) -> None:
    line = json.dumps({"rating": 5, "asin": "B1", "parent_asin": "B1", "user_id": "A", "timestamp": 1})
    said = _refusal(ingest_reviews, tmp_path / "Shop_5.json", line)
    assert OF_2023 in said
    assert "have no reviewerID and no overall" in said
