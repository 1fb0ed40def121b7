"""The precision of a training: which numbers its matrix products use.

Weights, gradients, the optimiser, sums and the evaluation are always in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmm4rec.config import TrainConfig
from mmm4rec.devices import on_device

AUTO = {"cpu": "32-true", "cuda": "tf32"}
"""The precision that `auto` stands for, by device."""


def precision_on(device: torch.device, config: TrainConfig) -> str:
    """The precision on a device: that of `config`, or what `auto` stands for there."""
    return on_device(device, AUTO) if config.precision == "auto" else config.precision


def activations_in(precision: str) -> torch.dtype:
    """The type of the activations of a model."""
    return torch.bfloat16 if precision == "bf16-mixed" else torch.float32


@contextmanager
def matrix_products_in(precision: str) -> Iterator[None]:
    """Within this context, a GPU rounds the factors of float32 matrix products to TF32 if `precision` says so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
