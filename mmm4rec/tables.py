"""The layouts of the Parquet tables that this package reads and writes.

Tables in `ACCEPTED` are read, tables in `TABLES` are written. The keys are `layer/noun/file stem`. Reading a table
ignores all columns that are not listed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmm4rec.errors import ModelError
from mmm4rec.files import regular
from mmm4rec.metrics import METRICS, Metric, figures, of_lists, of_users

_BATCH = 8192
"""The number of rows to read at once from a possibly large table: one row group."""


def _field(name: str, kind: pa.DataType, comment: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"comment": comment})


def _table(comment: str, columns: Sequence[pa.Field]) -> pa.Schema:
    return pa.schema(columns, metadata={"comment": comment})


_EMBEDDINGS = pa.schema(
    [
        _field("item_id", pa.string(), "item, as in core/sequences"),
        # The width depends on the encoder; -1 means any width.
        _field(
            "vector",
            pa.list_(pa.float32()),
            "feature vector; stored as fixed_size_list of the encoder's width",
        ),
        _field("present", pa.bool_(), "false where the item lacks this modality (the vector is then zero)"),
    ]
)

ACCEPTED: dict[str, pa.Schema] = {
    "core/sequences/sequences": pa.schema(
        [
            _field("user_index", pa.int32(), "1..U, by user_id ascending"),
            _field("user_id", pa.string(), "user"),
            _field("items", pa.list_(pa.int32()), "item_index of the user's interactions, oldest first"),
            _field("times", pa.list_(pa.int64()), "times of the interactions, unix seconds"),
            _field("training", pa.int32(), "number of interactions for training: the first ones"),
            _field(
                "validation",
                pa.int32(),
                "number of interactions for validation: the next ones; the rest is for testing",
            ),
        ]
    ),
    "core/sequences/items": pa.schema(
        [
            _field("item_index", pa.int32(), "1..N, by item_id ascending; 0 is padding"),
            _field("item_id", pa.string(), "item"),
        ]
    ),
    "features/text_embeddings/text_embeddings": _EMBEDDINGS,
    "features/image_embeddings/image_embeddings": _EMBEDDINGS,
}

_HISTORY = _table(
    "The training of a model, epoch by epoch. Key: epoch, sorted",
    [
        _field("epoch", pa.int32(), "0 is the state before training"),
        _field("optimiser_steps", pa.int64(), "optimiser steps so far"),
        _field("examples", pa.int64(), "training examples seen so far"),
        _field("loss", pa.float64(), "mean training loss of the epoch; null at epoch 0", nullable=True),
        *(
            _field(
                metric.column(k),
                pa.float64(),
                f"validation {metric.title(k)}; null if the epoch was not validated",
                True,
            )
            for metric, k in figures()
        ),
    ],
)
_MODEL_ITEMS = _table(
    "The items that the per-item weights belong to. Key: item_index, sorted",
    [
        _field("item_index", pa.int32(), "row of the per-item weights, 1..N"),
        _field("item_id", pa.string(), "item"),
    ],
)

_WHOSE = [
    _field("model", pa.string(), "popularity, scratch, finetuned, pretrained, or a baseline that the settings request"),
    _field("split", pa.string(), "validation or test"),
]
_OF_LISTS = ", ".join(metric.label for metric in of_lists())
_ERROR = (
    "standard error of the mean over users: binomial if the metric is a share of users, otherwise that of the sample "
    "mean"
)
_NO_ERROR = f"null for {_OF_LISTS}, which describes all users' lists together and is not a mean over users"
_USERS = _field("users", pa.int64(), "number of users whose label was ranked")


def _metric(metrics: Iterable[Metric]) -> list[pa.Field]:
    """The columns for the metric and the k of a row."""
    meanings = "; ".join(f"{metric.label}: {metric.meaning}" for metric in metrics)
    return [_field("metric", pa.string(), meanings), _field("k", pa.int32(), "cut-off of the ranked list")]


_RUN = [
    _field(
        "part", pa.string(), "models: the compared models; ablations: MMM4Rec from scratch without some of its parts"
    ),
    _field("model", pa.string(), "name of the model or of the ablation"),
    _field("percent", pa.float64(), "percentage of the domain's users that the model learns from"),
]
_SEED = _field("seed", pa.int64(), "seed of the training", nullable=True)

_TO_END = _field(
    "trained_to_end",
    pa.bool_(),
    "false: more training may change the figure, because for at least one seed the kept epoch is the last allowed one, "
    "or there were fewer than 100 optimiser steps; always true for a model that only counts and is not trained",
)

COMPARISON = "reports/comparison"
"""The key of the tables of model comparisons."""

TABLES: dict[str, pa.Schema] = {
    **{f"models/{noun}/history": _HISTORY for noun in ("pretrained", "scratch", "finetuned")},
    **{f"models/{noun}/items": _MODEL_ITEMS for noun in ("pretrained", "scratch", "finetuned", "baselines")},
    "models/baselines/history": _table(
        "The training of the requested baselines, epoch by epoch. Key: (model, epoch)",
        [_field("model", pa.string(), "name of the baseline"), *_HISTORY],
    ),
    "reports/metrics/metrics": _table(
        "The metrics of popularity and of every model of a domain. Key: (model, split, metric, k)",
        [
            *_WHOSE,
            *_metric(METRICS),
            _field("value", pa.float64(), "value of the metric, within [0, 1]"),
            _field("standard_error", pa.float64(), f"{_ERROR}; {_NO_ERROR}", nullable=True),
            _USERS,
        ],
    ),
    "reports/metrics/breakdown": _table(
        "The metrics for classes of users: by the length of the user's history, and by how often the label occurs in "
        "training. It has only metrics that are means over users, and no rows for a class without users. Key: (model, "
        "split, breakdown, lowest, metric, k)",
        [
            *_WHOSE,
            _field(
                "breakdown",
                pa.string(),
                "history_length: number of the user's interactions before the label; label_count: number of the "
                "label's training interactions, which is 0 for a cold item (never seen in training) and large for a "
                "warm one",
            ),
            _field("lowest", pa.int32(), "lower end of the class, included"),
            _field(
                "highest", pa.int32(), "upper end of the class, included; null if it has no upper end", nullable=True
            ),
            *_metric(of_users()),
            _field("value", pa.float64(), "value of the metric for the users of the class, within [0, 1]"),
            _field("standard_error", pa.float64(), _ERROR),
            _USERS,
        ],
    ),
    "reports/metrics/curves": _table(
        "The training of the models in reports.metrics, epoch by epoch. Key: (model, epoch)",
        [_field("model", pa.string(), "as in reports.metrics"), *_HISTORY],
    ),
    "reports/metrics/outcomes": _table(
        "What the training of each model cost: its parameters, and its epochs, steps and examples up to the best "
        "weights and up to 95% of the best validation. How good the models are is in reports.metrics. Key: model",
        [
            _field("model", pa.string(), "as in reports.metrics"),
            _field("best_epoch", pa.int32(), "epoch of the kept weights; 0 means before training", nullable=True),
            _field("epochs", pa.int32(), "number of epochs that were run", nullable=True),
            _field("optimiser_steps_to_best", pa.int64(), "optimiser steps up to best_epoch", nullable=True),
            _field("examples_to_best", pa.int64(), "training examples seen up to best_epoch", nullable=True),
            _field("parameters", pa.int64(), "number of trainable parameters"),
            *(
                _field(
                    f"{counted}_to_95",
                    kind,
                    f"{said} up to the first validation that reached 95% of the best one; null without validation",
                    nullable=True,
                )
                for counted, kind, said in (
                    ("epochs", pa.int32(), "epochs"),
                    ("optimiser_steps", pa.int64(), "optimiser steps"),
                    ("examples", pa.int64(), "training examples seen"),
                )
            ),
        ],
    ),
    "reports/comparison/comparison": _table(
        "The test metrics of the models that `mmm4rec compare` compared. Key: (part, model, percent, metric, k)",
        [
            *_RUN,
            *_metric(METRICS),
            _field("value", pa.float64(), "value of the metric on the test labels, mean over seeds"),
            _field(
                "standard_error",
                pa.float64(),
                f"standard error of the mean over users, where each user has the mean over the seeds; {_NO_ERROR}",
                nullable=True,
            ),
            _field(
                "seed_deviation",
                pa.float64(),
                "standard deviation between seeds; null if there is only one",
                nullable=True,
            ),
            _field("seeds", pa.int32(), "number of trainings; 1 for a model that only counts"),
            _field("users", pa.int64(), "number of users tested"),
            _TO_END,
        ],
    ),
    "reports/comparison/tests": _table(
        "Whether two models of a comparison differ. Key: (question, model, percent)",
        [
            _field(
                "question",
                pa.string(),
                "best: a model against the model that is best on validation; ablation: an ablation against the whole "
                "model; transfer: the fine-tuned model against the model from scratch",
            ),
            _field("model", pa.string(), "the first model"),
            _field("against", pa.string(), "the second model"),
            _field("percent", pa.float64(), "percentage of the domain's users that both models learn from"),
            _field(
                "difference", pa.float64(), "test NDCG@10 of model minus that of against; negative if against is better"
            ),
            _field(
                "p",
                pa.float64(),
                "p-value of a two-sided, paired permutation test over users, for this comparison alone (not corrected "
                "for the number of comparisons); null if one of the two models was not trained to its end",
                nullable=True,
            ),
            _field(
                "verdict",
                pa.string(),
                "better, worse, no difference shown (p is 0.05 or more), or not trained to its end (one of the two)",
            ),
            _field("users", pa.int64(), "number of users tested"),
            _field(
                "reached",
                pa.int32(),
                "only for transfer: number of seeds in which model reaches 95% of the best validation of against",
                nullable=True,
            ),
            _field(
                "steps_share",
                pa.float64(),
                "only for transfer: optimiser steps that this takes, as a share of the steps that against takes to its "
                "best validation; mean over these seeds",
                nullable=True,
            ),
        ],
    ),
    "reports/comparison/curves": _table(
        "Every training of a comparison, epoch by epoch. Key: (part, model, percent, seed, epoch)",
        [
            *_RUN,
            _SEED,
            *(_HISTORY.field(name) for name in ("epoch", "optimiser_steps", "examples", "loss", "ndcg_10")),
            _field("seconds", pa.float64(), "wall-clock time up to the end of the epoch, validation included", True),
        ],
    ),
    "reports/comparison/costs": _table(
        "What each training of a comparison cost. Key: (part, model, percent, seed)",
        [
            *_RUN,
            _SEED,
            _field("learning_rate", pa.float64(), "learning rate of the optimiser"),
            _field("batch", pa.int64(), "training examples per optimiser step"),
            _field("parameters", pa.int64(), "number of trainable parameters"),
            _field("best_epoch", pa.int32(), "epoch of the tested weights; 0 means before training"),
            _field("epochs", pa.int32(), "number of epochs that were run"),
            _field("optimiser_steps", pa.int64(), "steps of all epochs"),
            _field("optimiser_steps_to_best", pa.int64(), "steps up to the best epoch"),
            _field("examples_to_best", pa.int64(), "training examples seen up to the best epoch"),
            _field("seconds", pa.float64(), "wall-clock time of training and validation"),
            _field("seconds_to_best", pa.float64(), "wall-clock time up to the best epoch"),
            _field(
                "optimiser_steps_to_95",
                pa.int64(),
                "steps up to the first validation that reached 95% of the best one",
                nullable=True,
            ),
            _field(
                "seconds_to_95",
                pa.float64(),
                "seconds up to the first validation that reached 95% of the best one",
                nullable=True,
            ),
            _field("examples_per_second", pa.float64(), "training examples per second, without the time of validation"),
            _field(
                "peak_bytes", pa.int64(), "peak memory: of the tensors on a GPU, otherwise of the whole process", True
            ),
            _field("validation_ndcg_10", pa.float64(), "validation NDCG@10 of the tested weights", nullable=True),
            _field("device", pa.string(), "device of the training"),
            _TO_END,
        ],
    ),
    "reports/recommendations/recommendations": _table(
        "The recommended items for every user, from one model or several. Key: (model, user_id, rank), sorted by model "
        "(the best on validation first), then by user",
        [
            _field("model", pa.string(), "model that ranked the items"),
            _field("user_id", pa.string(), "user"),
            _field("rank", pa.int32(), "rank of the item; 1 is the best"),
            _field("item_id", pa.string(), "item recommended"),
            _field("score", pa.float32(), "dot product of user and item vectors over the temperature"),
        ],
    ),
}


def write_table(rows: Sequence[Mapping[str, object]], key: str, path: Path) -> None:
    """Write `rows` in the layout `TABLES[key]` to `path`. The same rows give the same bytes."""
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[key]), path)


def read_table(path: Path, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the columns of `ACCEPTED[key]` (or only the named ones) from the Parquet file `path`, in declared types.

    Raises:
        ModelError: the file is missing or unreadable, lacks a column, or contains nulls or another type.
    """
    with _opened(path, key) as file:
        table = file.read(columns=ACCEPTED[key].names if columns is None else columns)
    for name in table.schema.names:
        table = table.set_column(table.schema.get_field_index(name), name, _declared(path, key, name, table[name]))
    return table


def read_batches(path: Path, key: str, column: str) -> Iterator[pa.Array]:
    """Like :func:`read_table` for one column, some thousand rows at a time, so that large tables need little memory.

    Raises:
        ModelError: as :func:`read_table`.
    """
    with _opened(path, key) as file:
        for batch in file.iter_batches(_BATCH, columns=[column]):
            yield _declared(path, key, column, batch[column])


def stored_type(path: Path, key: str, column: str) -> pa.DataType:
    """The type of a column of the Parquet file `path`.

    Raises:
        ModelError: the file is missing or unreadable, or lacks a column.
    """
    with _opened(path, key) as file:
        return file.schema_arrow.field(column).type


@contextmanager
def _opened(path: Path, key: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that has the columns of `ACCEPTED[key]`. Errors while reading it become a ModelError."""
    names = ACCEPTED[key].names
    try:
        # pre_buffer would read the whole file ahead, although it is read batch by batch.
        with pq.ParquetFile(regular(path), pre_buffer=False) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise ModelError(f"{path}: there is no column {', '.join(missing)}; {key} has {', '.join(names)}")
            yield file
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; it should be {key}") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise ModelError(f"{path}: not a readable Parquet file ({error}); build {key} again") from None


def _declared(path: Path, key: str, name: str, column: Any) -> Any:
    """The array or chunked array in the declared type. Vectors may be lists of a fixed size."""
    kind = ACCEPTED[key].field(name).type
    if column.null_count:
        raise ModelError(f"{path}: {column.null_count} nulls in column {name}, where {key} has none")
    if column.type == kind or (pa.types.is_fixed_size_list(column.type) and pa.types.is_list(kind)):
        return column
    try:
        return column.cast(kind)
    except pa.ArrowException:
        raise ModelError(f"{path}: column {name} is {column.type}, but must be {kind}; build {key} again") from None
