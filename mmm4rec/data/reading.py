"""Reading a domain from Parquet, with checks, because the files may come from strangers. No other module reads
domains."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmm4rec.data.domain import DomainData, EncoderRecord, Features
from mmm4rec.errors import ModelError
from mmm4rec.files import regular
from mmm4rec.tables import read_batches, read_table, stored_type

_EMPTY: Final = "there are no users or no items; lower k of the k-core, or give more interactions"


def load_domain(sequences: Path, text: Path, image: Path, name: str = "domain") -> DomainData:
    """Read a domain from Parquet.

    Args:
        sequences: folder with `sequences.parquet` and `items.parquet` (core/sequences).
        text: Parquet file of text vectors, keyed by item_id; it may contain further items. An `encoder.json` beside it
            names the encoder.
        image: Parquet file of image vectors, in the same form. If it is in the same folder as the text vectors, an
            `encoder.json` would be ambiguous, so it is not read.
        name: prefix of ids when domains are merged, and name in messages.

    Raises:
        ModelError: a file or column is missing, ids are duplicate or missing, indices are out of range, or vectors are
            not finite.
    """
    item_ids = _read_items(sequences / "items.parquet")
    users = _read_users(sequences / "sequences.parquet", len(item_ids))
    apart = text.parent != image.parent
    encoders = [_read_encoder(path.with_name("encoder.json")) if apart else None for path in (text, image)]
    return DomainData(
        name=name,
        item_ids=item_ids.to_pylist(),
        **users,
        text=_load_features(text, item_ids, "text", encoders[0]),
        image=_load_features(image, item_ids, "image", encoders[1]),
    )


def _read_items(path: Path) -> pa.Array:
    """The item ids, in the order of item_index."""
    catalogue = read_table(path, "core/sequences/items").sort_by("item_index")
    item_ids = catalogue["item_id"].combine_chunks()
    if not len(item_ids):
        raise ModelError(f"{path.parent}: {_EMPTY}")
    _unique(item_ids, f"{path}: item_id")
    index = catalogue["item_index"].to_numpy()
    if not np.array_equal(index, np.arange(1, len(index) + 1)):
        raise ModelError(f"{path}: item_index is not 1..{len(index)}; build core/sequences again")
    return item_ids


def _read_users(path: Path, item_count: int) -> dict[str, Any]:
    """The fields of `DomainData` that come from `sequences.parquet`."""
    table = read_table(path, "core/sequences/sequences").sort_by("user_index")
    user_ids = table["user_id"].combine_chunks()
    if not len(user_ids):
        raise ModelError(f"{path.parent}: {_EMPTY}")
    _unique(user_ids, f"{path}: user_id")
    items, times = table["items"].combine_chunks(), table["times"].combine_chunks()
    counts = items.value_lengths().to_numpy()
    if not np.array_equal(counts, times.value_lengths().to_numpy()):
        raise ModelError(f"{path}: lists of items and times differ in length")
    if counts.min() == 0:
        raise ModelError(f"{path}: a user has no interactions: leave out users without interactions")
    training, validation = (table[name].to_numpy().astype(np.int64) for name in ("training", "validation"))
    if min(training.min(), validation.min()) < 0 or (training + validation > counts).any():
        raise ModelError(
            f"{path}: training + validation is more than the length of the sequence, or one of them is negative"
        )
    flat_items, flat_times = items.flatten(), times.flatten()
    if flat_items.null_count or flat_times.null_count:
        raise ModelError(f"{path}: there are nulls in items or times; build core/sequences again")
    flat = torch.from_numpy(flat_items.to_numpy().astype(np.int64))
    if flat.min() < 1 or flat.max() > item_count:
        raise ModelError(
            f"{path}: items run from {flat.min()} to {flat.max()}, but item_index is 1..{item_count}; build "
            "core/sequences again"
        )
    return {
        "user_ids": user_ids.to_pylist(),
        "offsets": torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64)),
        "items": flat,
        "times": torch.from_numpy(flat_times.to_numpy().astype(np.int64)),
        "training": torch.from_numpy(training),
        "validation": torch.from_numpy(validation),
    }


def _read_encoder(path: Path) -> EncoderRecord | None:
    """The contents of an `encoder.json` of the feature store; None if there is none."""
    try:
        said = json.loads(regular(path).read_text(encoding="utf-8"))
        # Not the name, because one model may have several names, and not the precision, which only rounds.
        decisive = [said["weights_sha256"], said["preprocessing"]]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        return EncoderRecord(str(said["model"]), digest, ready=said["preprocessing"] == "unknown")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: there is no encoder identity ({error!r}); build the embeddings beside it again"
        ) from None


def _load_features(path: Path, item_ids: pa.Array, modality: str, encoder: EncoderRecord | None) -> Features:
    """The vectors of `item_ids`, in that order, after a zero row for padding.

    They are in memory only once: each batch that is read is written directly to its rows.
    """
    key = f"features/{modality}_embeddings/{modality}_embeddings"
    table = read_table(path, key, ["item_id", "present"])
    found = table["item_id"].combine_chunks()
    _unique(found, f"{path}: item_id")
    rows = pc.index_in(item_ids, value_set=found)
    if rows.null_count:
        missing = item_ids.filter(pc.is_null(rows))
        raise ModelError(
            f"{path}: {len(missing)} of {len(item_ids)} items have no row, such as {missing[0].as_py()!r}; "
            f"build the {modality} embeddings of this domain again"
        )
    order = rows.to_numpy()
    present = np.concatenate([[False], table["present"].to_numpy()[order]])
    place = np.zeros(len(found), np.int64)  # target row of each row in the file; 0: not wanted, or not present
    place[order] = np.arange(1, len(item_ids) + 1)
    place[order[~present[1:]]] = 0
    vectors = np.zeros((len(item_ids) + 1, _width(path, key)), np.float32)
    bad: list[int] = []
    start = 0
    for lists in read_batches(path, key, "vector"):
        read = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(lists), -1)
        target = place[start : start + len(lists)]
        start += len(lists)
        read, target = read[target > 0], target[target > 0]
        bad += target[~np.isfinite(read).all(axis=1)].tolist()
        vectors[target] = read
    if bad:
        name = item_ids[min(bad) - 1].as_py()
        raise ModelError(
            f"{path}: {len(bad)} {modality} vectors have NaN or infinity, such as that of {name!r}; "
            "encode them again, or mark them present=false"
        )
    return Features(vectors=torch.from_numpy(vectors), present=torch.from_numpy(present), encoder=encoder)


def _width(path: Path, key: str) -> int:
    """The common width of the vectors of a table."""
    kind = stored_type(path, key, "vector")
    widths = {int(kind.list_size)} if pa.types.is_fixed_size_list(kind) else set()
    if not widths:
        for lists in read_batches(path, key, "vector"):
            widths.update(pc.list_value_length(lists).unique().to_pylist())
    if len(widths) != 1 or not min(widths):
        raise ModelError(f"{path}: vectors of widths {sorted(widths)}; all must have the same width above 0")
    return widths.pop()


def _unique(ids: pa.Array, where: str) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise ModelError(
            f"{where}: {len(repeated)} ids occur more than once, such as {repeated[0]['values'].as_py()!r}"
        )
