"""Whether the Triton kernels can be tested here: on a GPU if there is one, else in Triton's interpreter.

Import this module before the modules of the kernels. It skips the importing test module if triton is not installed.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

if find_spec("triton") is None:
    pytest.skip("triton is not installed: `make triton` runs these tests", allow_module_level=True)
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
if not GPU:
    # Triton reads this when it is imported.
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and triton was imported without its interpreter", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"

HALF = torch.bfloat16 if GPU else torch.float16
"""The interpreter has no product of bfloat16: it multiplies the bits as integers."""
EXAMPLES = 8 if GPU else 15
"""Compiling the kernels for a shape takes seconds."""


def errors(found: Sequence[Tensor], expected: Sequence[Tensor], smallest: float = 1e-3) -> list[float]:
    """The largest error of each tensor, relative to its largest entry or to `smallest`."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
    scales = [other.abs().max().clamp(min=smallest) for other in expected]
    return [((a - b).abs().max() / s).item() for a, b, s in zip(found, expected, scales, strict=True)]
