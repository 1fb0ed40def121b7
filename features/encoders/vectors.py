"""Ready vectors, which were made elsewhere and are looked up by item id."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.encoders.protocol import EncoderFiles, EncoderIdentity, Vectors
from features.errors import FeatureError
from features.settings import Zeros
from warehouse.artifacts.files import regular

ID_COLUMNS = ("item_id", "asin")


class ReadyVectors:
    """Vectors by item id, with the identity of their content.

    An item that is not in the file, or has null there, has no vector.
    """

    def __init__(self, ids: Sequence[str], vectors: Vectors, identity: EncoderIdentity) -> None:
        self.identity = identity
        self._row = {item_id: row for row, item_id in enumerate(ids)}
        self._vectors = vectors

    @classmethod
    def none(cls) -> "ReadyVectors":
        """No vector for any item; the width is 1, the smallest that a model accepts."""
        identity = EncoderIdentity(
            architecture="none",
            model="none",
            weights_sha256=hashlib.sha256().hexdigest(),
            preprocessing="none",
            precision="float32",
            normalised=False,
            width=1,
        )
        return cls([], np.empty((0, 1), np.float32), identity)

    @classmethod
    def read(cls, path: str | Path, column: str, zeros: Zeros = "refused") -> "ReadyVectors":
        """Read the vectors of a Parquet file: an id column item_id or asin, and a fixed-size-list column of floats.

        The identity's sha256 is over the sorted ids and their float32 vectors, so it does not depend on the order of
        the rows or on the compression of the file.

        Raises:
            FeatureError: there is no such file or column, ids are null or repeat, a vector is not finite, or a vector
                is zero and `zeros` refuses it.
        """
        path = Path(path)
        ids, vectors = without_zeros(*_read(path, column), zeros, f"{path}, column {column}")
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        ids, vectors = [ids[row] for row in order], vectors[order]
        digest = hashlib.sha256("\0".join(ids).encode())
        digest.update(vectors.astype("<f4", copy=False).tobytes())
        files = EncoderFiles(
            model=f"{path.name}:{column}",
            weights_sha256=digest.hexdigest(),
            preprocessing="unknown",
            precision="float32",
        )
        return cls.of(ids, vectors, files, "ready vectors")

    @classmethod
    def of(cls, ids: Sequence[str], vectors: Vectors, files: EncoderFiles, architecture: str) -> "ReadyVectors":
        """Vectors [n, width] of `ids` [n], with the identity of the files that they were read from."""
        lengths = np.linalg.norm(vectors, axis=1)
        identity = EncoderIdentity(
            **asdict(files),
            architecture=architecture,
            normalised=bool(len(ids) and np.allclose(lengths, 1, atol=1e-3)),
            width=vectors.shape[1],
        )
        return cls(ids, vectors, identity)

    def look_up(self, item_ids: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors [n, width], zeros where missing, and the mask [n] of those present."""
        rows = np.array([self._row.get(item_id, -1) for item_id in item_ids], dtype=np.int64)
        present = rows >= 0
        vectors = np.zeros((len(rows), self.identity.width), np.float32)
        vectors[present] = self._vectors[rows[present]]
        return vectors, present


def without_zeros(ids: list[str], vectors: Vectors, zeros: Zeros, where: str) -> tuple[list[str], Vectors]:
    """The ids [n] and vectors [n, width] without the vectors of zeros, which many files have in place of missing ones.

    Raises:
        FeatureError: there are vectors of zeros, and `zeros` is "refused", because they may also be an error.
    """
    kept = np.flatnonzero(vectors.any(axis=1))
    if len(kept) == len(ids):
        return ids, vectors
    if zeros == "refused":
        first = ids[int((~vectors.any(axis=1)).argmax())]
        raise FeatureError(
            f"{where}: the vector of {first!r} is all zeros ({len(ids) - len(kept)} in total); repair it, use null "
            "instead, or set `zeros: missing` beside `column` if zeros stand for items without a vector"
        )
    return [ids[row] for row in kept], vectors[kept]


def _read(path: Path, column: str) -> tuple[list[str], Vectors]:
    """Ids and vectors of the rows that have a vector; all vectors are finite."""
    try:
        schema = pq.read_schema(regular(path))
        key = next((name for name in ID_COLUMNS if name in schema.names), None)
        if key is None or column not in schema.names:
            wanted = column if key else " or ".join(ID_COLUMNS)
            raise FeatureError(f"{path}: there is no column {wanted}; it has {', '.join(schema.names)}")
        kind = schema.field(column).type
        if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
            raise FeatureError(f"{path}: column {column} is {kind}; write it as a fixed-size list of floats")
        table = pq.read_table(path, columns=[key, column])
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(f"{path}: cannot be read as Parquet ({error}); check the encoder's path") from error
    table = table.filter(table[column].is_valid())
    ids = table[key].cast(pa.string()).to_pylist()
    if None in ids or len(set(ids)) != len(ids):
        raise FeatureError(f"{path}: {key} is null or occurs twice; keep one row per item")
    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = values.astype(np.float32).reshape(len(ids), kind.list_size)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"{path}: the vector of {ids[bad[0]]!r} in column {column} is not finite ({len(bad)} in total); repair it, "
            "or use null instead"
        )
    return ids, vectors
