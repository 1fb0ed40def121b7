"""Small domains as Parquet, and sizes at which a test takes moments."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.reading import load_domain

torch.set_num_threads(1)
DAY = 86_400

SMALL = {
    "hidden": 16,
    "inner": 16,
    "state": 4,
    "head_width": 8,
    "length": 6,
    "dropout_embedding": 0.1,
    "dropout_hidden": 0.1,
    "dropout_time": 0.1,
}


def write_domain(
    folder: Path,
    *,
    users: int = 40,
    items: int = 15,
    widths: tuple[int, int] = (6, 5),
    absent_images: tuple[int, ...] = (3, 4),
    shortest: int = 3,
    seed: int = 0,
) -> Path:
    """A domain in which the next item mostly follows the last one by 1. Feature rows are shuffled."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    item_ids = [f"item{n:03d}" for n in range(1, items + 1)]
    user_ids = [f"user{n:03d}" for n in range(1, users + 1)]
    sequences, times = [], []
    for _ in user_ids:
        length = int(random.integers(shortest, 12))
        walk = [int(random.integers(1, items + 1))]
        while len(walk) < length:
            walk.append(walk[-1] % items + 1 if random.random() < 0.8 else int(random.integers(1, items + 1)))
        sequences.append(walk)
        times.append((1_300_000_000 + np.cumsum(random.integers(0, 40, length)) * DAY).tolist())
    pq.write_table(
        pa.table(
            {
                "user_index": pa.array(range(1, users + 1), pa.int32()),
                "user_id": user_ids,
                "items": pa.array(sequences, pa.list_(pa.int32())),
                "times": pa.array(times, pa.list_(pa.int64())),
                "training": pa.array([max(len(walk) - 2, 0) for walk in sequences], pa.int32()),
                "validation": pa.array([min(len(walk) - 1, 1) for walk in sequences], pa.int32()),
            }
        ),
        folder / "sequences.parquet",
    )
    pq.write_table(
        pa.table({"item_index": pa.array(range(1, items + 1), pa.int32()), "item_id": item_ids}),
        folder / "items.parquet",
    )
    for name, width, absent in (("text", widths[0], ()), ("image", widths[1], absent_images)):
        vectors = random.normal(size=(items, width)).astype(np.float32)
        present = np.array([n not in absent for n in range(1, items + 1)])
        vectors[~present] = 0
        order = random.permutation(items)
        write_features(folder / f"{name}.parquet", [item_ids[n] for n in order], vectors[order], present[order])
    return folder


def write_features(path: Path, ids: list[str], vectors: np.ndarray, present: np.ndarray) -> None:
    """A table of embeddings."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"item_id": ids, "vector": column, "present": pa.array(present)}), path)


def read_domain(folder: Path, name: str = "Toys") -> DomainData:
    """What `write_domain` wrote."""
    return load_domain(folder, folder / "text.parquet", folder / "image.parquet", name)


@pytest.fixture
def make_domain(tmp_path: Path) -> Callable[..., DomainData]:
    """A factory: make_domain(name, **options of write_domain)."""

    def make(name: str = "Toys", **options: object) -> DomainData:
        return read_domain(write_domain(tmp_path / name, **options), name)  # type: ignore[arg-type]

    return make


@pytest.fixture
def domain_folder(tmp_path: Path) -> Path:
    """A domain on disk, to be damaged."""
    return write_domain(tmp_path / "Toys")


@pytest.fixture
def domain(domain_folder: Path) -> DomainData:
    return read_domain(domain_folder)


@pytest.fixture
def small() -> Callable[..., ModelConfig]:
    """A factory: a small config, with changes."""
    return lambda **changes: ModelConfig(**{**SMALL, **changes})


@pytest.fixture
def quick() -> Callable[..., TrainConfig]:
    """A factory: a training of moments, with changes."""
    defaults = {"epochs": 2, "batch_size": 32, "accumulate": 1, "learning_rate": 3e-3, "weight_decay": 0.0}
    return lambda **changes: TrainConfig(**{**defaults, "device": "cpu", **changes})
