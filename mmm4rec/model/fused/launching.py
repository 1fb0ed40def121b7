"""What all our kernels need to be launched."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The types that the kernels read and write."""


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it the device of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def blocks_of(count: int, size: int) -> int:
    """At least one, because an empty grid cannot be launched."""
    return max(1, -(-count // size))


def in_units(*strides: int) -> tuple[int, ...]:
    """The strides in units, and the unit, a power of two up to 16.

    The unit is a constant of a kernel, so the compiler knows how the rows are aligned. By itself it finds only strides
    that are multiples of 16, and a slice of a projection with 8 heads has others.
    """
    unit = math.gcd(*strides, 16)
    return *(stride // unit for stride in strides), unit
