"""Why a raw file as a whole is not of its form: all likely causes at once, judged by its first unreadable lines.

These are words for messages. What a single line is, and the reasons in the quarantine, is decided by the readers.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from warehouse.errors import DataError
from warehouse.raw.formats import category_in, formats
from warehouse.raw.lines import blocks
from warehouse.raw.rating_rows import EARLIEST_MILLISECONDS, EARLIEST_SECONDS
from warehouse.raw.records import LONGEST_LINE, read_record

__all__ = ["of_ratings", "of_records"]

_SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_COLUMNS: Final[Mapping[str, Collection[str]]] = {
    "item": {"item", "item_id", "itemid", "asin", "parent_asin", "product", "product_id", "productid", "sku"},
    "user": {"user", "user_id", "userid", "reviewerid", "customer", "customer_id", "customerid"},
    "rating": {"rating", "ratings", "overall", "stars", "score"},
    "time": {"time", "timestamp", "unix_time", "unixreviewtime", "date", "datetime"},
}
"""The columns in the order of a ratings file, each with names that headers give to it, in lower case."""
_NUMBER: Final = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")
_DATE: Final = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([ T].*)?")
_LAYOUT_OF_2023: Final = "it has the layout of the files of 2023, but only that of 2018 is read"
_SHOWN_KEYS: Final = 8


def of_ratings(source: Path, lines: Sequence[bytes]) -> list[str]:
    """What is likely wrong with a ratings file whose first unreadable lines are these. May be empty.

    Looks into the metadata file beside it, if there is one, to see whether user and item are swapped.
    """
    texts = [line.decode("utf-8", "replace") for line in lines]
    separator = max(_SEPARATORS, key=lambda each: sum(text.count(each) for text in texts))
    rows = []
    for text in texts:
        with suppress(csv.Error, StopIteration):
            rows.append(next(csv.reader([text], delimiter=separator)))
    found = []
    if separator != ",":
        found.append(f"the fields are separated by {_SEPARATORS[separator]}: separate them by commas")
    if any(text.split(separator) != row for text, row in zip(texts, rows, strict=False)):
        found.append("fields are in quotation marks, which count as part of them: write the file without quotes")
    header = [name.strip().lower() for name in rows[0]] if rows else []
    named = [column for name in header for column, names in _COLUMNS.items() if name in names]
    if len(named) >= 2:
        rows = rows[1:]
        found.append("line 1 is a header: remove it")
        if "parent_asin" in header:
            found.append(_LAYOUT_OF_2023)
        if named != [column for column in _COLUMNS if column in named]:
            found.append(f"its columns are {','.join(named)}: put them in the order {','.join(_COLUMNS)}")
    return found + _of_columns(source, rows, swapped=len(named) < 2)


def _of_columns(source: Path, rows: Sequence[Sequence[str]], swapped: bool) -> list[str]:
    """What is wrong with the columns, without a header. `swapped`: also whether the item comes second."""
    if not rows:
        return []
    (width, _) = Counter(map(len, rows)).most_common(1)[0]
    columns = list(zip(*(row for row in rows if len(row) == width), strict=True))
    found = []
    if width != len(_COLUMNS):
        fields = f"{width} field{'s' * (width != 1)}"
        found.append(f"its lines have {fields}, not 4: a shop without stars writes the same rating in every line")
    for place, column in enumerate(columns[2:], 3):
        if _all(_DATE, column):
            found.append(f"column {place} has dates: write times as seconds since 1970")
        elif _all(_NUMBER, column) and min(map(float, column)) >= EARLIEST_MILLISECONDS:
            found.append(f"column {place} is in milliseconds: divide it by 1000, without a remainder")
    if width == len(_COLUMNS) and _all(_NUMBER, (*columns[2], *columns[3])):
        ratings, times = (list(map(float, column)) for column in columns[2:])
        if min(ratings) >= EARLIEST_SECONDS > max(times):
            found.append("rating and time are swapped: put the time last")
    known = _items_beside(source) if swapped and width > 1 else set()
    if known.intersection(*columns[1:2]) and not known.intersection(*columns[:1]):
        found.append("user and item are swapped: put the item first")
    return found


def of_records(lines: Iterable[bytes], wanted: Sequence[str]) -> list[str]:
    """What is likely wrong with a file of JSON Lines whose first unreadable lines are these. May be empty.

    wanted: the fields that a record must have.
    """
    lines = list(lines)
    first = lines[0].strip() if lines else b""
    records = [read[0] for line in lines if not isinstance(read := read_record(line), str)]
    if not records:
        if first.startswith(b"["):
            return ["it is one JSON array: write each object as a line of its own, without the brackets and commas"]
        if first == b"{":
            return ["its objects go over several lines: write each object as one line"]
        if first and not first.startswith(b"{"):
            return ["its lines are no JSON: if it is CSV, write one JSON object for each of its lines"]
        return []
    return [*_of_keys(records, wanted)]


def _of_keys(records: Sequence[Mapping[Any, Any]], wanted: Sequence[str]) -> Iterator[str]:
    keys = list(dict.fromkeys(str(key) for record in records for key in record))
    if "parent_asin" in keys:
        yield _LAYOUT_OF_2023
    if missing := [name for name in wanted if name not in keys]:
        shown = ", ".join(keys[:_SHOWN_KEYS]) + ", ..." * (len(keys) > _SHOWN_KEYS)
        yield f"its objects have no {' and no '.join(missing)} (they have {shown}): rename the fields that hold them"
    elif any(isinstance(record.get("asin"), int | float) for record in records):
        yield "asin is a number: write it as text, in quotation marks"


def _items_beside(source: Path) -> set[str]:
    """Ids of items from the beginning of the metadata file beside a ratings file; empty if there is none to read."""
    categories = {category_in(name, source.name) for each in formats("ratings") for name in each.file_names} - {None}
    for name in (name for each in formats("metadata") for name in each.file_names):
        for category in categories:
            with suppress(DataError):
                block = next(blocks(source.with_name(name.format(category)), LONGEST_LINE))
                read = map(read_record, block.data.split(b"\n"))
                return {str(record[0].get("asin")) for record in read if not isinstance(record, str)}
    return set()


def _all(pattern: re.Pattern[str], texts: Iterable[str]) -> bool:
    return all(map(pattern.fullmatch, texts))
