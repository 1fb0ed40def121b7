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
_time = _column("time", _int64, "Time of the rating, Unix seconds UTC; the Amazon files give only the day")
_reason = _column("reason", _string, "Why it was left out")
_user_index = _column("user_index", _int32, "User number 1..U, in bytewise order of user_id")
_item_index = _column("item_index", _int32, "Item number 1..N, in bytewise order of item_id; 0 is reserved for padding")


def _quarantine(of: str) -> pa.Schema:
    return _table(
        f"Lines of the {of} file that could not be read, sorted by line. Every line of the file is either here or in "
        f"raw.{of}",
        _line,
        _reason,
        _column("raw", _string, "The line, cut after 500 characters; bytes that are not text are written as \\xNN"),
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
        "Every readable line of the metadata file, sorted by line. An item can have several lines. Key: line",
        _line,
        _item_id,
        _column("title", _string, "Title as scraped, possibly HTML; empty if missing"),
        _column("brand", _string, "Brand as scraped; empty if missing"),
        _column("description", _strings, "Fragments of the description as scraped; empty fragments are left out"),
        _column("categories", _strings, "Path of categories, from general to specific"),
        _column(
            "image_urls", _strings, "Picture addresses, high resolution first; empty and repeated ones are left out"
        ),
        _column("price", _string, "Price as scraped, possibly a style sheet; empty if missing"),
    ),
    "raw/metadata/quarantine": _quarantine("metadata"),
    "core/items/items": _table(
        "One row per item: the most complete of its metadata rows, with cleaned text. Key: item_id, sorted",
        _item_id,
        _column("title", _string, "Title without tags and entities; empty if it was missing or contained only HTML"),
        _column("title_raw", _string, "Title as scraped"),
        _column("brand", _string, "Brand without tags and entities; empty if missing"),
        _column("description", _string, "Fragments joined by a space, without tags and entities; may be empty"),
        _column("description_raw", _strings, "Fragments as scraped"),
        _column("categories", _strings, "Path of categories without tags and entities"),
        _column("image_urls", _strings, "Picture addresses, high resolution first"),
        _column("price_raw", _string, "Price as scraped; empty if missing"),
        _column("price_lowest", _double, "Price, or the lower end of a range; null if missing or not readable", True),
        _column("price_highest", _double, "Price, or the upper end of a range; null if missing or not readable", True),
        _column(
            "price_currency",
            _string,
            "Currency of the price, ISO 4217; $ is read as USD; null if the price names no currency",
            True,
        ),
        _column(
            "price_unread",
            _string,
            "Why the price could not be read; null if it was read or is missing. no_amount: it contains no number, or "
            "much more than a price, such as a style sheet; negative: it is below 0; unclear_number: the number can be "
            "read in two ways or not at all, such as 1.234; unknown_currency: an unknown word or sign stands beside "
            "the number; two_currencies: it is a range between two currencies",
            True,
        ),
        _column("line", _int64, "Line of the metadata file that this row comes from"),
    ),
    "core/items/rejected": _table(
        "Metadata rows that were left out because another row of the same item is more complete, sorted by line",
        _item_id,
        _line,
        _reason,
    ),
    "core/interactions/interactions": _table(
        "Distinct ratings of items that have metadata. Key: position, sorted",
        _column(
            "position",
            _int64,
            "Line of the rating in the raw file (of its first copy). It gives the order of ratings with equal times",
        ),
        _user_id,
        _item_id,
        _rating,
        _time,
    ),
    "core/interactions/rejected": _table(
        "Ratings that were left out: exact duplicates of an earlier line, ratings of items without metadata, and "
        "ratings that the domain's settings exclude; sorted by line",
        _line,
        _user_id,
        _item_id,
        _reason,
    ),
    "core/sequences/sequences": _table(
        "One row per user of the k-core. The lists are in the order of (time, position): first the interactions for "
        "training, then those for validation, then those for testing. Key: user_index, sorted",
        _user_index,
        _user_id,
        _column("items", pa.list_(_int32), "item_index of the items that the user rated, oldest first"),
        _column("times", pa.list_(_int64), "Times of the ratings, Unix seconds UTC, in the same order as items"),
        _column("ratings", pa.list_(_float), "Stars, in the same order as items"),
        _column("training", _int32, "Number of interactions for training: the first ones"),
        _column("validation", _int32, "Number of interactions for validation: the next ones; the rest is for testing"),
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
        "The sequences, one row per interaction. Key: (user_index, step), sorted",
        _user_index,
        _user_id,
        _column("step", _int32, "Place in the user's sequence, from 1"),
        _item_index,
        _item_id,
        _time,
        _rating,
        _column(
            "split",
            _string,
            "train, validation or test. With leave-one-out, the user's last interaction is for test, and the one "
            "before it for validation",
        ),
    ),
}
