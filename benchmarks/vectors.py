"""Seeded random unit vectors, written batch by batch in the format of the extraction."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.encoders import EncoderIdentity
from features.parquet import ROW_GROUP
from features.tables import embedding_schema


def write_vectors(folder: Path, noun: str, rows: int, width: int, seed: int = 0) -> Path:
    """Write `<noun>.parquet` and encoder.json. The items have the ids of :func:`item_id`; vectors have length 1."""
    identity = EncoderIdentity(
        architecture="none",
        model="random",
        weights_sha256="",
        preprocessing="none",
        precision="float32",
        normalised=True,
        width=width,
    )
    (folder / "encoder.json").write_text(json.dumps(asdict(identity)))
    dice, schema, path = np.random.default_rng(seed), embedding_schema(width), folder / f"{noun}.parquet"
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, ROW_GROUP):
            count = min(ROW_GROUP, rows - start)
            vectors = dice.standard_normal((count, width), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            columns = [
                pa.array(item_id(row) for row in range(start, start + count)),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width),
                pa.array(np.ones(count, np.bool_)),
                pa.array([f"{row:064x}" for row in range(start, start + count)]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, names=schema.names).cast(schema), ROW_GROUP)
    return path


def item_id(row: int) -> str:
    """The id of a row, with the length of an ASIN."""
    return f"B{row:09d}"
