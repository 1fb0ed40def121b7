"""What the tests of the Triton kernels share: they skip without triton, and without a GPU they use its interpreter.

Import this module before any module that imports triton.
"""

import os
import sys
from collections.abc import Callable, Sequence
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

# Of float32 sums of many terms. The 16-bit types round what is read and written, and the SSD also its weights.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
HALF = torch.bfloat16 if GPU else torch.float16
"""The interpreter has no product of bfloat16: it multiplies the bits as integers."""
EXAMPLES = 8 if GPU else 15
"""Compiling the kernels for a shape takes seconds."""
Form = Callable[..., Tensor]


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Tensors of normal numbers on the CPU, in float64."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]


def leaves(tensors: Sequence[Tensor], dtype: torch.dtype, wide: Sequence[int] = ()) -> list[Tensor]:
    """On the device and in `dtype`, but the tensors `wide` in float32."""
    types = [torch.float32 if place in wide else dtype for place in range(len(tensors))]
    return [m.detach().to(DEVICE, kind).requires_grad_() for m, kind in zip(tensors, types, strict=True)]


def both(form: Form, tensors: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
    """The result of `form` and the gradients of the tensors."""
    y = form(*tensors)
    return [y, *torch.autograd.grad(y, tensors, gradient.to(y.dtype))]


def errors(found: Sequence[Tensor], expected: Sequence[Tensor], smallest: float = 1e-3) -> list[float]:
    """The largest error of each tensor, relative to its largest entry or to `smallest`."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
    scales = [other.abs().max().clamp(min=smallest) for other in expected]
    return [((a - b).abs().max() / s).item() for a, b, s in zip(found, expected, scales, strict=True)]


def assert_same_bits(run: Callable[[], list[Tensor]]) -> None:
    """The same numbers each time, under autocast too."""
    first, second = run(), run()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        third = run()
    for one, *others in zip(first, second, third, strict=True):
        assert all(torch.equal(one, other) for other in others)


def assert_takes_an_expanded_gradient(form: Form, tensors: Sequence[Tensor], gradient: Tensor) -> None:
    """The gradient of a sum is one number, expanded."""
    expected = both(form, tensors, torch.ones_like(gradient))[1:]
    for one, other in zip(torch.autograd.grad(form(*tensors).sum(), tensors), expected, strict=True):
        torch.testing.assert_close(one, other)


def assert_captured(run: Callable[[], list[Tensor]]) -> None:
    """A CUDA graph of `run` repeats its numbers."""
    expected = [m.detach() for m in run()]
    graph, results = captured(run)
    for tensor in results:
        tensor.detach().zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


def captured(run: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A CUDA graph of `run`, and the memory that its replay fills.

    No autograd graph of the tensors may be alive: it would keep nodes of another stream, which cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results
