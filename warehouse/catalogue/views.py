"""The catalogue's own views, tables and macros, in addition to the views of the store's tables.

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

__all__ = ["ADDED", "CATALOGUE", "JUDGED", "MACROS", "PARTITION", "Added", "Macro", "figure", "results", "shown"]

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


_rated_at = Added(_column("rated_at", _moment, "time as a TIMESTAMP in UTC"), "added_rated_at", frozenset({"time"}))

ADDED: Final[Mapping[str, Added]] = {
    "raw/ratings/ratings": _rated_at,
    "core/interactions/interactions": _rated_at,
    "core/sequences/interactions": _rated_at,
    "core/sequences/sequences": Added(
        _column("rated_at", pa.list_(_moment), "times as TIMESTAMPs in UTC"),
        "added_rated_at_list",
        frozenset({"times"}),
    ),
    "core/items/items": Added(
        _column("display_title", _string, "The title; where there is none, the brand and the item's id, or the id"),
        "added_display_title",
        frozenset({"title", "brand", "item_id"}),
    ),
}
"""By ``layer/noun/file stem``."""


def shown(key: str, table: pa.Schema) -> pa.Schema:
    """The columns that the view of a store table shows besides those of `PARTITION`."""
    return table.append(ADDED[key].column) if key in ADDED else table


_key = _column("key", _string, "layer/noun of the artifact")
_domain = _column("domain", _string, "Domain; _all where an artifact spans all of them")
_name = _column("domain", _string, "Domain")
_version = _column("version", _string, "Data version: the artifact's folder v=<version>")

CATALOGUE: Final[dict[str, pa.Schema]] = {
    "lineage/artifacts": _table(
        "Every artifact that the views show, as its manifest describes it. Key: (key, domain)",
        _key,
        _domain,
        _version,
        _column("path", _string, "Absolute path of its folder"),
        _column("created", _moment, "When it was published, UTC; null where its manifest does not say", nullable=True),
        _column("recipe", _string, "Hash of code version, inputs, sources and parameters"),
        _column("code_version", _string, "Hash of the code that made it"),
        _column("parameters", _string, "Its settings, JSON"),
        _column("summary", _string, "Counts and figures of the build, JSON"),
    ),
    "lineage/versions": _table(
        "Every version that was current, also those that are no longer there, with what it counted. An artifact whose "
        "domain was forgotten has no version without an end. Key: (key, domain, since)",
        _key,
        _domain,
        _column("version", _string, "Data version"),
        _column("since", _moment, "When it became current, UTC"),
        _column("until", _moment, "When another took its place, UTC; null of the current one", nullable=True),
        _column("rows", _int64, "Rows of its main table; null where it has none", nullable=True),
        _column("summary", _string, "Counts and figures of the build, JSON: of reports/metrics, metrics by model"),
    ),
    "lineage/columns": _table(
        "Which column was made from which, of the main tables, where a value comes from values. What is counted, "
        "ranked or learned from rows is not here. Key: (key, domain, column, input_key, input_column)",
        _key,
        _domain,
        _column("column", _string, "Column of its main table"),
        _column("input_key", _string, "layer/noun of the input, of the same domain"),
        _column("input_column", _string, "Column of the input's main table"),
    ),
    "lineage/environments": _table(
        "What made every artifact that the views show. It decides nothing: no version and no recipe depends on it. All "
        "null where an artifact was published before this was recorded. Key: (key, domain)",
        _key,
        _domain,
        _version,
        _column("python", _string, "Version of Python", nullable=True),
        *(
            _column(name.replace("-", "_"), _string, f"Version of {name}; null where it was not installed", True)
            for name in PACKAGES
        ),
        _column("git_commit", _string, "The project's commit; null where the code was no git checkout", nullable=True),
        _column(
            "git_clean", pa.bool_(), "Whether the code was as that commit has it; null without a commit", nullable=True
        ),
        _column("device", _string, "cpu, or the names of the CUDA devices that the build used", nullable=True),
        _column("processor", _string, "Name of the processor", nullable=True),
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
    "lineage/place": _table(
        "Whether this file lies in the data folder whose files its views read. If not, it was copied or moved, alone "
        "or with its folder, and shows the rows of the folder named here: in a folder that was copied or moved, "
        "`mmm4rec run` builds the catalogue anew",
        _column("data_folder", _string, "Folder whose files the views read"),
        _column("opened", _string, "The file that is open"),
        _column("in_its_folder", pa.bool_(), "Whether it lies in that folder, as both paths are written"),
    ),
    "main/domains": _table(
        "Each domain in figures: after the k-core, then its raw files (main.rejected says why less). Key: domain",
        _name,
        _column("users", _int64, "Users"),
        _column("items", _int64, "Items"),
        _column("interactions", _int64, "Interactions"),
        _column("sparsity", _double, "1 - interactions / (users * items)"),
        _column("mean_length", _double, "Interactions of a user, mean"),
        *(
            _column(f"{name}_length", _double, f"Interactions of a user, {words}, interpolated")
            for name, words in (("median", "median"), ("p90", "90th percentile"), ("p99", "99th percentile"))
        ),
        _column("longest", _int64, "Interactions of a user, most"),
        _column("gini", _double, "Gini coefficient of the items' interactions: 0 all bought alike, near 1 one has all"),
        _column("top_tenth_share", _double, "Share of the interactions that the most popular tenth of the items has"),
        _column("text_coverage", _double, "Share of items with a title or a description after cleaning"),
        _column("picture_coverage", _double, "Share of items with a picture address"),
        _column("rating_lines", _int64, "Lines of the raw ratings file", nullable=True),
        _column("ratings_quarantined", _int64, "Of these, lines that are no rating", nullable=True),
        _column("ratings", _int64, "The others: ratings", nullable=True),
        _column("distinct_ratings", _int64, "Ratings without exact copies of an earlier line", nullable=True),
        _column(
            "ratings_rejected", _int64, "Ratings that core.interactions leaves out, exact copies too", nullable=True
        ),
        _column("metadata_lines", _int64, "Lines of the raw metadata file", nullable=True),
        _column("metadata_quarantined", _int64, "Of these, lines that could not be read", nullable=True),
        _column("metadata_rows", _int64, "The others: metadata rows", nullable=True),
        _column("metadata_items", _int64, "Items that have metadata", nullable=True),
    ),
    "main/length_distribution": _table(
        "How long the users' sequences are, a row a length. Key: (domain, length)",
        _name,
        _column("length", _int64, "Interactions of a user"),
        _column("users", _int64, "Users with that many"),
        _column("share_at_most", _double, "Share of the domain's users with that many or fewer"),
    ),
    "main/popularity_distribution": _table(
        "How unequally items are bought, a row a number of interactions, most popular first; the long tail and the "
        "Lorenz curve are two columns each. Key: (domain, interactions)",
        _name,
        _column("interactions", _int64, "Interactions of an item in the k-core"),
        _column("items", _int64, "Items with exactly that many"),
        _column("items_at_least", _int64, "Items with that many or more: the rank of the last of them"),
        _column("share_of_items", _double, "items_at_least as a share of the domain's items"),
        _column("share_of_interactions", _double, "Share of the domain's interactions that these have"),
    ),
    "main/coverage": _table(
        "How many items of the k-core have each thing. Key: (domain, what)",
        _name,
        _column(
            "what",
            _string,
            "title, brand, description, text (title or description), categories, picture_address, price: in the "
            "metadata; picture: read and kept; text_vector, picture_vector: encoded",
        ),
        _column("items", _int64, "Items"),
        _column("present", _int64, "Items that have it"),
        _column("share", _double, "present / items"),
    ),
    "main/pictures": _table(
        "What became of the items' pictures. Key: (domain, status)",
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
        _column("raw", _string, "The line, cut at 500 characters; bytes that are not text are written \\xNN"),
    ),
    "main/rejected": _table(
        "All that was left out between raw file and sequences, counted. Rating lines = interactions in sequences + "
        "the rows of raw/ratings, core/interactions and core/sequences here; lines of metadata = items that have "
        "metadata + the rows of raw/metadata and core/items; of both, where what is row. Key: (domain, key, what, "
        "reason)",
        _name,
        _column("key", _string, "Step that left it out: layer/noun of the artifact"),
        _column("what", _string, "row: a line or a row; price: a price that could not be read, whose row is kept"),
        _column(
            "reason",
            _string,
            "Why; not_in_sequences: outside the k-core, or before what a sequence cut at the longest length keeps",
        ),
        _column("rows", _int64, "Lines or rows; of prices, items"),
    ),
}
"""Tables and views that exist only in the analysts' catalogue, except `results`."""

JUDGED: Final = {
    "popularity": "the items bought most in training",
    "pretrained": "the model trained on all source domains, as it is",
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
        _column("role", _string, "source: judged by the pre-trained model; target: by its own"),
        _column("users", _int64, "Users"),
        _column("items", _int64, "Items, all of them candidates"),
        _column("interactions", _int64, "Interactions"),
        *(
            _column(figure(model, metric), _double, f"{metric}@10 of {words}; null where there is none", True)
            for model, words in JUDGED.items()
            for metric in metrics
        ),
        _column("scratch_epochs", _int32, "Epochs to the best weights from scratch", nullable=True),
        _column("finetuned_epochs", _int32, "Epochs to the best weights of the fine-tuned model", nullable=True),
        _column(
            "recommends",
            _string,
            "Model of reports.recommendations: the best on validation, of equal ones the fine-tuned; null where there "
            "are none",
            nullable=True,
        ),
    )


@dataclass(frozen=True)
class Macro:
    """A query with parameters: a table macro, ``FROM schema.name(...)``, or a scalar function if it has no columns."""

    parameters: Mapping[str, str]
    """The meaning of each parameter, in the order of the parameters."""
    columns: pa.Schema
    """The columns of its answer; the schema's comment says what the macro does."""
    needs: frozenset[str] = frozenset()
    """The views that it reads."""

    @property
    def comment(self) -> str:
        """What the macro does and its parameters in one text, for the catalogue."""
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in self.parameters.items())
        return f"{self.columns.metadata[b'comment'].decode()}. {meanings}"


_as_of = "Unix seconds, a date, a TIMESTAMP or such a text; without an offset it is UTC, a date its first second"
_depth = _column("depth", _int32, "Steps on the longest way between the two; 0 for where it begins")
_root = {"key": "layer/noun of the artifact", "domain": "its domain, or _all, which is what it is if left out"}

MACROS: Final[dict[str, Macro]] = {
    "main/unix_seconds": Macro(
        {"moment": _as_of},
        _table("A moment as Unix seconds (BIGINT), fractions rounded up; null of null"),
    ),
    "main/history": Macro(
        {"domain": "the domain", "user_id": "the user", "as_of": _as_of},
        _table(
            "What a user had rated before a moment: rows of core.interactions with a time strictly before as_of, in "
            "the order of (time, position). Amazon's times are whole days: as of a day means nothing of that day",
            _column("position", _int64, "Line in the raw file: the order among equal times"),
            _column("item_id", _string, "Item"),
            _column("rating", pa.float32(), "Stars"),
            _column("time", _int64, "When it was rated, Unix seconds UTC"),
            _column("rated_at", _moment, "The same as a TIMESTAMP in UTC"),
        ),
        frozenset({"core.interactions"}),
    ),
    "main/histories": Macro(
        {"domain": "the domain", "as_of": _as_of},
        _table(
            "main.history of every user of a domain who has one, a row a user, sorted by user_id",
            _column("user_id", _string, "User"),
            _column("item_ids", pa.list_(_string), "Items, oldest first"),
            _column("times", pa.list_(_int64), "Unix seconds UTC, beside item_ids"),
            _column("ratings", pa.list_(pa.float32()), "Stars, beside item_ids"),
            _column("rated_at", pa.list_(_moment), "times as TIMESTAMPs in UTC"),
        ),
        frozenset({"core.interactions"}),
    ),
    "lineage/upstream": Macro(
        _root,
        _table(
            "What an artifact was made from, down to the raw files: itself and all its ancestors, each deeper than all "
            "that was made from it; a row an ancestor, and of one that reads raw files a row a file",
            _depth,
            _key,
            _domain,
            _column("version", _string, "Data version that was read"),
            _column(
                "current", pa.bool_(), "Whether the catalogue shows that version; what it was made from is unknown else"
            ),
            _column("source", _string, "Raw file it read", nullable=True),
            _column("sha256", _string, "Hash of that file's bytes", nullable=True),
        ),
    ),
    "lineage/downstream": Macro(
        _root,
        _table(
            "What was made from an artifact: itself and all descendants, each once, deeper than what it is made of",
            _depth,
            _key,
            _domain,
            _version,
        ),
    ),
    "lineage/impact": Macro(
        {"source": "name of the raw file, as in lineage.sources", "domain": "its domain; all that have it if left out"},
        _table(
            "What must be made anew if a raw file changes, in the order of depth: what reads it, what is made of it",
            _depth,
            _key,
            _domain,
            _version,
        ),
    ),
}
"""Macros of the catalogue, by ``schema/name``; sql/macro_<name>.sql holds the statement of each."""
