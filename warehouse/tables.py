"""The tables the warehouse writes: column, type, nullability and meaning of each, in one place.

A key of `TABLES` is ``layer/noun/file stem``. Comments travel into the Parquet files and, from there or from
here, into the analysts' catalogue. What is *not* here: how a table is made (see the module of its noun).
"""

from typing import Final

import pyarrow as pa

__all__ = ["CATALOGUE", "SPLITS", "TABLES"]

SPLITS: Final = ("train", "validation", "test")
"""The parts of a user's sequence, in the order of time."""


def _column(name: str, kind: pa.DataType, comment: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"comment": comment})


def _table(comment: str, *columns: pa.Field) -> pa.Schema:
    return pa.schema(columns, metadata={"comment": comment})


_string, _int32, _int64, _float = pa.string(), pa.int32(), pa.int64(), pa.float32()
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
        "Ratings not kept: exact duplicates of an earlier line, items without metadata; sorted by line",
        _line,
        _user_id,
        _item_id,
        _reason,
    ),
    "core/sequences/sequences": _table(
        "One row a user of the k-core; lists in the order of (time, position): the last entry is the test "
        "item, the last but one the validation item, the rest is for training. Key: user_index, sorted",
        _user_index,
        _user_id,
        _column("items", pa.list_(_int32), "item_index of what the user rated, oldest first"),
        _column("times", pa.list_(_int64), "Unix seconds UTC, beside items"),
        _column("ratings", pa.list_(_float), "Stars, beside items"),
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
        _column("split", _string, "train, validation (last but one) or test (last)"),
    ),
}

_key = _column("key", _string, "layer/noun of the artifact")
_domain = _column("domain", _string, "Domain; _all where an artifact spans all of them")
_version = _column("version", _string, "Data version: the artifact's folder v=<version>")

CATALOGUE: Final[dict[str, pa.Schema]] = {
    "lineage/artifacts": _table(
        "Every artifact that the views show, as its manifest describes it. Key: (key, domain)",
        _key,
        _domain,
        _version,
        _column("path", _string, "Absolute path of its folder"),
        _column("created", _string, "When it was published, ISO 8601 UTC"),
        _column("recipe", _string, "Hash of code version, inputs, sources and parameters"),
        _column("code_version", _string, "Hash of the code that made it"),
        _column("parameters", _string, "Its settings, JSON"),
        _column("summary", _string, "Counts and figures of the build, JSON"),
    ),
    "lineage/inputs": _table(
        "Which artifact was made from which. Key: (key, domain, input_key, input_domain)",
        _key,
        _domain,
        _version,
        _column("input_key", _string, "layer/noun of the input"),
        _column("input_domain", _string, "Domain of the input"),
        _column("input_version", _string, "Data version of the input that was read"),
    ),
    "lineage/sources": _table(
        "Which artifact was made from which raw file. Key: (key, domain, source)",
        _key,
        _domain,
        _version,
        _column("source", _string, "Raw file"),
        _column("sha256", _string, "Hash of its bytes"),
    ),
    "lineage/files": _table(
        "The files of every artifact. Key: (key, domain, name)",
        _key,
        _domain,
        _version,
        _column("name", _string, "File in the artifact's folder"),
        _column("sha256", _string, "Hash of its bytes"),
        _column("bytes", _int64, "Size"),
        _column("rows", _int64, "Rows, of a Parquet file", nullable=True),
    ),
    "main/domains": _table(
        "Statistics of each domain after the k-core. Key: domain",
        _domain,
        _column("users", _int64, "Users"),
        _column("items", _int64, "Items"),
        _column("interactions", _int64, "Interactions"),
        _column("sparsity", pa.float64(), "1 - interactions / (users * items)"),
        _column("mean_length", pa.float64(), "Interactions of a user, mean"),
        _column("longest", _int64, "Interactions of a user, most"),
        _column("text_coverage", pa.float64(), "Share of items with a title or a description after cleaning"),
        _column("picture_coverage", pa.float64(), "Share of items with a picture address"),
    ),
    "main/results": _table(
        "How good each model is on the test item of every user. Key: domain",
        _domain,
        _column("role", _string, "source: judged by the pre-trained model; target: by its own"),
        _column("users", _int64, "Users"),
        _column("items", _int64, "Items, all of them candidates"),
        _column("interactions", _int64, "Interactions"),
        *(
            _column(f"{model}_{metric}", pa.float64(), f"{metric.upper()}@10 of {said}; null where there is none")
            for model, said in (
                ("popularity", "the items bought most in training"),
                ("pretrained", "the model trained on all source domains, as it is"),
                ("scratch", "the model trained on this domain alone"),
                ("finetuned", "the pre-trained model fine-tuned on this domain"),
            )
            for metric in ("hr", "ndcg")
        ),
        _column("scratch_epochs", pa.int32(), "Epochs to the best weights from scratch"),
        _column("finetuned_epochs", pa.int32(), "Epochs to the best weights of the fine-tuned model"),
    ),
}
"""Tables and views that exist only in the analysts' catalogue."""
