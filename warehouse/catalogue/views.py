"""The catalogue's own views and tables, in addition to the views of the store's tables. `macros` has its macros.

This module declares names, columns, types and meanings, which become the comments in the catalogue and the data
dictionary. The SQL of each is in ``sql/<name>.sql``. The declarations are separate from `warehouse.tables`, so that a
changed word here does not make a table of the store stale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from warehouse.artifacts.environment import PACKAGES
from warehouse.artifacts.schema import column as _column
from warehouse.artifacts.schema import table as _table

__all__ = ["ADDED", "CATALOGUE", "JUDGED", "PARTITION", "Added", "figure", "results", "shown"]

PARTITION: Final = {"domain": "Domain of the row", "v": "Data version of the row's artifact"}
"""Columns that every view of a store table has besides the table's own columns."""


_string, _int32, _int64, _double = pa.string(), pa.int32(), pa.int64(), pa.float64()
_moment = pa.timestamp("us")


@dataclass(frozen=True)
class Added:
    """A column of a view that the underlying table of the store does not have."""

    column: pa.Field
    sql: str
    """The name of its SQL file, written in full, because the code version looks for it in the code."""
    needs: frozenset[str]
    """Columns of the table that it is made from."""


_rated_at = Added(_column("rated_at", _moment, "The time as a TIMESTAMP in UTC"), "added_rated_at", frozenset({"time"}))

ADDED: Final[Mapping[str, Added]] = {
    "raw/ratings/ratings": _rated_at,
    "core/interactions/interactions": _rated_at,
    "core/sequences/interactions": _rated_at,
    "core/sequences/sequences": Added(
        _column("rated_at", pa.list_(_moment), "The times as TIMESTAMPs in UTC"),
        "added_rated_at_list",
        frozenset({"times"}),
    ),
    "core/items/items": Added(
        _column(
            "display_title", _string, "The title; without a title, the brand and the item's id; without both, the id"
        ),
        "added_display_title",
        frozenset({"title", "brand", "item_id"}),
    ),
}
"""By ``layer/noun/file stem``."""


def shown(key: str, table: pa.Schema) -> pa.Schema:
    """The columns that the view of a store table shows besides those of `PARTITION`."""
    return table.append(ADDED[key].column) if key in ADDED else table


_key = _column("key", _string, "layer/noun of the artifact")
_domain = _column("domain", _string, "Domain; _all if the artifact spans all domains")
_name = _column("domain", _string, "Domain")
_version = _column("version", _string, "Data version: the artifact's folder v=<version>")

CATALOGUE: Final[dict[str, pa.Schema]] = {
    "lineage/artifacts": _table(
        "The manifest of every current artifact. Key: (key, domain)",
        _key,
        _domain,
        _version,
        _column("path", _string, "Absolute path of its folder"),
        _column(
            "shown",
            pa.bool_(),
            "Whether the views show its rows; false if `mmm4rec pull` was asked for others and left it in the bucket",
        ),
        _column("created", _moment, "When it was published, UTC; null if the manifest does not say it", nullable=True),
        _column("recipe", _string, "Hash of code version, inputs, sources and parameters"),
        _column("code_version", _string, "Hash of the code that made it"),
        _column("parameters", _string, "Its settings, JSON"),
        _column("summary", _string, "Counts and figures of the build, JSON"),
    ),
    "lineage/versions": _table(
        "Every version of an artifact that is or was current, even if it has been deleted since, with its counts. An "
        "artifact of a forgotten domain has no current version, so its until is never null. Key: (key, domain, "
        "since)",
        _key,
        _domain,
        _column("version", _string, "Data version"),
        _column("since", _moment, "When it became current, UTC"),
        _column("until", _moment, "When it stopped being current, UTC; null for the current version", nullable=True),
        _column("rows", _int64, "Rows of its main table; null if it has no main table", nullable=True),
        _column(
            "summary", _string, "Counts and figures of the build, JSON; for reports/metrics, the metrics of each model"
        ),
    ),
    "lineage/columns": _table(
        "The columns that each column of a main table was made from, if its values come from their values. Columns "
        "that are counted, ranked or learned from rows are left out. Key: (key, domain, column, input_key, "
        "input_column)",
        _key,
        _domain,
        _column("column", _string, "Column of its main table"),
        _column("input_key", _string, "layer/noun of the input, which has the same domain"),
        _column("input_column", _string, "Column of the input's main table"),
    ),
    "lineage/environments": _table(
        "The software and hardware that built each artifact that the views show. It is only information: no version "
        "and no recipe depends on it. All columns are null if an artifact was published before this was recorded. "
        "Key: (key, domain)",
        _key,
        _domain,
        _version,
        _column("python", _string, "Version of Python", nullable=True),
        *(
            _column(name.replace("-", "_"), _string, f"Version of {name}; null if it was not installed", True)
            for name in PACKAGES
        ),
        _column("git_commit", _string, "The project's commit; null if the code was not a git checkout", nullable=True),
        _column(
            "git_clean",
            pa.bool_(),
            "Whether the code was the same as in that commit; null without a commit",
            nullable=True,
        ),
        _column("device", _string, "cpu, or the names of the CUDA devices that the build used", nullable=True),
        _column("processor", _string, "Name of the processor", nullable=True),
    ),
    "lineage/inputs": _table(
        "The artifacts that each artifact was made from. Key: (key, domain, input_key, input_domain)",
        _key,
        _domain,
        _version,
        _column("input_key", _string, "layer/noun of the input"),
        _column("input_domain", _string, "Domain of the input"),
        _column("input_version", _string, "Data version of the input that was read"),
    ),
    "lineage/sources": _table(
        "The raw files that each artifact read. Key: (key, domain, source)",
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
        _column("rows", _int64, "Rows; only for Parquet files", nullable=True),
    ),
    "lineage/place": _table(
        "Whether this catalogue file is in the data folder whose files its views read. If not, the file was copied or "
        "moved, alone or with its folder, and still shows the rows of the folder that data_folder names. After a data "
        "folder was copied or moved, `mmm4rec run` builds its catalogue again",
        _column("data_folder", _string, "Folder whose files the views read"),
        _column("opened", _string, "The file that is open"),
        _column(
            "in_its_folder",
            pa.bool_(),
            "Whether opened is a path below data_folder. Only the texts of the two paths are compared",
        ),
    ),
    "main/domains": _table(
        "The figures of each domain: first after the k-core, then of its raw files. main.rejected explains the "
        "difference. Key: domain",
        _name,
        _column("users", _int64, "Users after the k-core"),
        _column("items", _int64, "Items after the k-core"),
        _column("interactions", _int64, "Interactions after the k-core"),
        _column("sparsity", _double, "1 - interactions / (users * items)"),
        _column("mean_length", _double, "Mean number of interactions per user"),
        *(
            _column(f"{name}_length", _double, f"{words} of the number of interactions per user, interpolated")
            for name, words in (("median", "Median"), ("p90", "90th percentile"), ("p99", "99th percentile"))
        ),
        _column("longest", _int64, "Largest number of interactions of a user"),
        _column(
            "gini",
            _double,
            "Gini coefficient of the items' interactions: 0 if all items have equally many, near 1 if one item has all",
        ),
        _column(
            "top_tenth_share", _double, "Share of the interactions that belong to the most popular tenth of the items"
        ),
        _column("text_coverage", _double, "Share of items with a title or a description after cleaning"),
        _column(
            "picture_coverage",
            _double,
            "Share of items with a picture address, fetched or not",
        ),
        _column("rating_lines", _int64, "Lines of the raw ratings file", nullable=True),
        _column("ratings_quarantined", _int64, "Of these, lines that could not be read as a rating", nullable=True),
        _column("ratings", _int64, "The other lines: ratings", nullable=True),
        _column("distinct_ratings", _int64, "Ratings that are not exact copies of an earlier line", nullable=True),
        _column(
            "ratings_rejected",
            _int64,
            "Ratings that core.interactions leaves out, including exact copies",
            nullable=True,
        ),
        _column("metadata_lines", _int64, "Lines of the raw metadata file", nullable=True),
        _column("metadata_quarantined", _int64, "Of these, lines that could not be read", nullable=True),
        _column("metadata_rows", _int64, "The other lines: metadata rows", nullable=True),
        _column("metadata_items", _int64, "Items that have metadata", nullable=True),
    ),
    "main/length_distribution": _table(
        "How long the users' sequences are, one row per length. Key: (domain, length)",
        _name,
        _column("length", _int64, "Interactions of a user"),
        _column("users", _int64, "Users with exactly this number of interactions"),
        _column("share_at_most", _double, "Share of the domain's users with at most this number of interactions"),
    ),
    "main/popularity_distribution": _table(
        "How interactions are distributed over items: one row per number of interactions, largest number first. Plot "
        "interactions over items_at_least for the long tail, and share_of_interactions over share_of_items for the "
        "Lorenz curve. Key: (domain, interactions)",
        _name,
        _column("interactions", _int64, "Interactions of an item in the k-core"),
        _column("items", _int64, "Items with exactly this number of interactions"),
        _column(
            "items_at_least", _int64, "Items with at least this number of interactions: the rank of the last of them"
        ),
        _column("share_of_items", _double, "items_at_least as a share of the domain's items"),
        _column(
            "share_of_interactions",
            _double,
            "Share of the domain's interactions that belong to these items_at_least items",
        ),
    ),
    "main/coverage": _table(
        "How many items of the k-core have each kind of data. Key: (domain, what)",
        _name,
        _column(
            "what",
            _string,
            "title, brand, description, text (title or description), categories, picture_address: the metadata has "
            "it; price: it could be read; picture: the picture was read and kept; text_vector, "
            "picture_vector: the text or picture was "
            "encoded",
        ),
        _column("items", _int64, "Items"),
        _column("present", _int64, "Items that have it"),
        _column("share", _double, "present / items"),
    ),
    "main/pictures": _table(
        "The statuses of the items' pictures. Key: (domain, status)",
        _name,
        _column("status", _string, "ok, or why there is no picture"),
        _column("items", _int64, "Items"),
        _column("share", _double, "Share of the domain's items"),
    ),
    "main/quarantine": _table(
        "Every line of every raw file that could not be read. Key: (domain, file, line)",
        _name,
        _column("file", _string, "Kind of raw file: ratings or metadata"),
        _column("line", _int64, "Line of the raw file, from 1"),
        _column("reason", _string, "Why it could not be read"),
        _column("raw", _string, "The line, cut after 500 characters; bytes that are not text are written as \\xNN"),
    ),
    "main/rejected": _table(
        "Counts of everything that was left out between the raw files and the sequences. If only the rows with what = "
        "'row' are counted: rating lines = interactions in sequences + the rows of raw/ratings, core/interactions and "
        "core/sequences here; lines of metadata = items that have metadata + the rows of raw/metadata and core/items. "
        "Key: (domain, key, what, reason)",
        _name,
        _column("key", _string, "Step that left it out: layer/noun of the artifact"),
        _column(
            "what", _string, "row: a line or a row was left out; price: a price could not be read, but its row was kept"
        ),
        _column(
            "reason",
            _string,
            "Why it was left out. not_in_sequences: the interaction is outside the k-core, or it is one of the early "
            "ones of a sequence that was cut to the longest length",
        ),
        _column("rows", _int64, "Number of lines or rows; for prices, number of items"),
    ),
}
"""Tables and views that exist only in the analysts' catalogue, except `results`."""

JUDGED: Final = {
    "popularity": "popularity (the items bought most in training)",
    "pretrained": "the pre-trained model (trained on all source domains, without fine-tuning)",
    "scratch": "the model trained on this domain alone",
    "finetuned": "the pre-trained model fine-tuned on this domain",
}
"""The models whose figures `results` shows."""


def figure(model: str, metric: str) -> str:
    """The column of `results` for a metric of a model."""
    return f"{model}_{metric.lower()}"


def results(metrics: Sequence[str]) -> pa.Schema:
    """``main/results``, with these metrics at 10 for every model; the metrics are named as in ``reports.metrics``."""
    return _table(
        "How good each model is on the test item of every user. Key: domain",
        _name,
        _column(
            "role", _string, "source: the pre-trained model is evaluated; target: the domain's own models are evaluated"
        ),
        _column("users", _int64, "Users"),
        _column("items", _int64, "Items; all of them are candidates"),
        _column("interactions", _int64, "Interactions"),
        *(
            _column(figure(model, metric), _double, f"{metric}@10 of {words}; null if there is none", True)
            for model, words in JUDGED.items()
            for metric in metrics
        ),
        _column(
            "scratch_epochs",
            _int32,
            "Epochs to the best weights of the model from scratch",
            nullable=True,
        ),
        _column(
            "finetuned_epochs",
            _int32,
            "Epochs of fine-tuning to the best weights",
            nullable=True,
        ),
        _column(
            "recommends",
            _string,
            "Model of reports.recommendations: the best on validation; if two are equal, the fine-tuned one; null if "
            "there are no recommendations",
            nullable=True,
        ),
    )
