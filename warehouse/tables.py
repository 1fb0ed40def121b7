"""The tables that the warehouse writes, with the type, nullability and meaning of every column.

A key of `TABLES` is ``layer/noun/file stem``. The comments are written into the Parquet files, and into the analysts'
catalogue. The module of a table's noun says how the table is made.
"""

from typing import Final

import pyarrow as pa

from warehouse.artifacts.schema import column as _column
from warehouse.artifacts.schema import table as _table

__all__ = ["SPLITS", "TABLES"]

SPLITS: Final = ("train", "validation", "test")
"""The parts of a user's sequence, in the order of time."""


_string, _int32, _int64, _float, _double = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
_strings = pa.list_(pa.string())

_line = _column("line", _int64, "Line of the raw file, from 1")
_item_id = _column("item_id", _string, "Item: the asin of the raw files")
_user_id = _column("user_id", _string, "User: the reviewerID of the raw files")
_rating = _column("rating", _float, "Stars as given, usually 1 to 5")
_time = _column("time", _int64, "When it was rated, Unix seconds UTC; whole days in the Amazon files")
_reason = _column("reason", _string, "Why the row was set aside")
_user_index = _column("user_index", _int32, "User number 1..U, in bytewise order of user_id")
_item_index = _column("item_index", _int32, "Item number 1..N, in bytewise order of item_id; 0 is left for padding")


def _quarantine(of: str) -> pa.Schema:
    return _table(
        f"Lines of the {of} file that could not be read, by line; with the rows they add up to its lines",
        _line,
        _reason,
        _column("raw", _string, "The line, cut at 500 characters; bytes that are not text are written \\xNN"),
    )


TABLES: Final[dict[str, pa.Schema]] = {
    "raw/ratings/ratings": _table(
        "Every readable line of the ratings file, unchanged, sorted by line. Key: line",
        _line,
        _item_id,
        _user_id,
        _rating,
        _time,
    ),
    "raw/ratings/quarantine": _quarantine("ratings"),
    "raw/metadata/metadata": _table(
        "Every readable line of the metadata file, sorted by line; items may occur repeatedly. Key: line",
        _line,
        _item_id,
        _column("title", _string, "Title as scraped, possibly HTML; empty if missing"),
        _column("brand", _string, "Brand as scraped; empty if missing"),
        _column("description", _strings, "Fragments of the description as scraped, without empty ones"),
        _column("categories", _strings, "Path of categories, from general to special"),
        _column("image_urls", _strings, "Picture addresses, high resolution first; without empties and repeats"),
        _column("price", _string, "Price as scraped, possibly a style sheet; empty if missing"),
    ),
    "raw/metadata/quarantine": _quarantine("metadata"),
    "core/items/items": _table(
        "One row an item: the fullest of its metadata rows, text cleaned. Key: item_id, sorted",
        _item_id,
        _column("title", _string, "Title without tags and entities; empty if there was none or only HTML"),
        _column("title_raw", _string, "Title as scraped"),
        _column("brand", _string, "Brand without tags and entities; empty if missing"),
        _column("description", _string, "Fragments joined by a space, without tags and entities; may be empty"),
        _column("description_raw", _strings, "Fragments as scraped"),
        _column("categories", _strings, "Path of categories without tags and entities"),
        _column("image_urls", _strings, "Picture addresses, high resolution first"),
        _column("price_raw", _string, "Price as scraped; empty if missing"),
        _column("price_lowest", _double, "Price, or the lower end of a range; null if missing or unread", True),
        _column("price_highest", _double, "Price, or the upper end of a range; null if missing or unread", True),
        _column("price_currency", _string, "Its currency, ISO 4217; $ is USD; null where none is named", True),
        _column(
            "price_unread",
            _string,
            "Why the price could not be read; null if it was, or is missing. no_amount: no number, or far more than "
            "one, as in a style sheet; negative; unclear_number: can be read in two ways or in none, such as 1.234; "
            "unknown_currency: a word or sign beside the number; two_currencies: a range between two",
            True,
        ),
        _column("line", _int64, "Line of the metadata file that was kept"),
    ),
    "core/items/rejected": _table(
        "Metadata rows that gave way to a fuller row of the same item, sorted by line",
        _item_id,
        _line,
        _reason,
    ),
    "core/interactions/interactions": _table(
        "Distinct ratings of items that have metadata. Key: position, sorted",
        _column("position", _int64, "Line of the first copy in the raw file: the order among equal times"),
        _user_id,
        _item_id,
        _rating,
        _time,
    ),
    "core/interactions/rejected": _table(
        "Ratings not kept: exact duplicates of an earlier line, items without metadata, what the domain's settings "
        "exclude; sorted by line",
        _line,
        _user_id,
        _item_id,
        _reason,
    ),
    "core/sequences/sequences": _table(
        "One row a user of the k-core; lists in the order of (time, position), first what is for training, then what "
        "is for validation, then what is for testing. Key: user_index, sorted",
        _user_index,
        _user_id,
        _column("items", pa.list_(_int32), "item_index of what the user rated, oldest first"),
        _column("times", pa.list_(_int64), "Unix seconds UTC, beside items"),
        _column("ratings", pa.list_(_float), "Stars, beside items"),
        _column("training", _int32, "How many of the first are for training"),
        _column("validation", _int32, "How many after those are for validation; the rest is for testing"),
    ),
    "core/sequences/users": _table("The users of the k-core. Key: user_index, sorted", _user_index, _user_id),
    "core/sequences/items": _table(
        "The items of the k-core. Key: item_index, sorted",
        _item_index,
        _item_id,
        _column("interactions", _int64, "Interactions of the item in the k-core, all splits"),
        _column("training_interactions", _int64, "Of these, the ones in the training split"),
    ),
    "core/sequences/interactions": _table(
        "The sequences, one row an interaction. Key: (user_index, step), sorted",
        _user_index,
        _user_id,
        _column("step", _int32, "Place in the user's sequence, from 1"),
        _item_index,
        _item_id,
        _time,
        _rating,
        _column(
            "split", _string, "train, validation or test; leave-one-out: the last is test, the one before validation"
        ),
    ),
}
