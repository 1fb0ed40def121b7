"""Tables of embeddings as the extraction writes them: read for its tests, written for tests of what reads them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.encoders import EncoderIdentity
from features.lookup.views import read_identity
from features.parquet import read_table
from features.tables import embedding_schema


@dataclass(frozen=True)
class Embeddings:
    """`item_ids` [n] sorted, `vectors` [n, width] in float32, `present` [n]."""

    item_ids: list[str]
    vectors: np.ndarray
    present: np.ndarray
    content: list[str | None]


def read_embeddings(folder: Path, noun: str) -> Embeddings:
    width = read_identity(folder).width
    table = read_table(folder / f"{noun}.parquet", embedding_schema(width))
    return Embeddings(
        item_ids=table["item_id"].to_pylist(),
        vectors=table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width),
        present=table["present"].to_numpy(),
        content=table["content_sha256"].to_pylist(),
    )


def identity(width: int, model: str = "m") -> EncoderIdentity:
    return EncoderIdentity(
        model=model,
        weights_sha256="",
        preprocessing="",
        precision="float32",
        architecture="",
        normalised=False,
        width=width,
    )


def write_embeddings(
    folder: Path,
    noun: str,
    ids: Sequence[str],
    vectors: np.ndarray,
    present: np.ndarray | None = None,
    model: str = "m",
    row_group: int = 8192,
) -> Path:
    """Write the table and its identity into the folder; the number format is that of `vectors`."""
    folder.mkdir(parents=True, exist_ok=True)
    width = vectors.shape[1]
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), width)
    present = np.ones(len(ids), bool) if present is None else present
    table = pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width).cast(kind),
            "present": pa.array(present, pa.bool_()),
            "content_sha256": pa.array([f"sha of {i}" if here else None for i, here in zip(ids, present, strict=True)]),
        },
    )
    path = folder / f"{noun}.parquet"
    pq.write_table(table, path, row_group_size=row_group, compression="none", use_dictionary=False)
    (folder / "encoder.json").write_text(json.dumps(asdict(identity(width, model))))
    return path
