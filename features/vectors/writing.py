"""Tables of vectors: checked and written."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.encoders import EncoderIdentity, Vectors
from features.errors import FeatureError
from features.parquet import ROW_GROUP
from features.tables import Storage, embedding_schema


def check_vectors(vectors: NDArray[np.floating], ids: Sequence[str], noun: str, blamed: str) -> None:
    """Refuse a vector that is not finite or is zero, because zeros stand for a missing vector.

    Args:
        vectors: [n, width].
        ids: [n], the items, for the message.
        noun: noun of the table, for the message.
        blamed: what gave them, with a verb, for the message.

    Raises:
        FeatureError: the message names the first such item.
    """
    for bad, what in ((~np.isfinite(vectors).all(axis=1), "that is not finite"), (~vectors.any(axis=1), "of zeros")):
        if bad.any():
            raise FeatureError(f"{noun}: {blamed} item {ids[int(bad.argmax())]!r} a vector {what}")


def write_vectors(
    out: Path,
    noun: str,
    ids: list[str],
    digests: Sequence[str | None],
    vectors: Vectors,
    identity: EncoderIdentity,
    storage: Storage,
) -> None:
    """Write encoder.json and the Parquet table, which is uncompressed because compression hardly reduces floats.

    Raises:
        FeatureError: `storage` cannot hold a vector.
    """
    schema = embedding_schema(identity.width, storage)
    present = np.array([digest is not None for digest in digests], np.bool_)
    with np.errstate(over="ignore", under="ignore"):  # checked right below
        stored = vectors.astype(storage, copy=False)
    if storage != "float32":
        rows = np.flatnonzero(present)
        blamed = f"storage {storage} (largest 65,504, smallest 6e-8; float32 holds any) gives"
        check_vectors(stored[rows], [ids[row] for row in rows], noun, blamed)
    columns = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), identity.width),
        pa.array(present),
        pa.array(digests, pa.string()),
    ]
    table = pa.Table.from_arrays(columns, names=schema.names).cast(schema)
    pq.write_table(
        table,
        out / f"{noun}.parquet",
        row_group_size=ROW_GROUP,
        compression="none",
        use_dictionary=False,
    )
    (out / "encoder.json").write_text(json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n", "utf-8")
