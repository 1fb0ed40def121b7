"""The fused block against the model's own block on the CPU in float64, value and gradients: on a GPU if there is one,
else in Triton's interpreter. `make triton` runs this file without a GPU."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.config import ModelConfig
from mmm4rec.errors import ConfigError
from mmm4rec.model.mmm4rec import TimeAwareSSD
from mmm4rec.model.ssd import FORGOTTEN
from mmm4rec.model.state_space import RMS_EPS
from tests.mmm4rec.triton_here import (
    DEVICE,
    GPU,
    HALF,
    assert_captured,
    both,
    errors,
    leaves,
    normal,
)

# isort: split
from mmm4rec.model.fused import ssd as fused_ssd
from mmm4rec.model.fused.block import Sizes, block

LENGTH = 7
CONFIG = ModelConfig(hidden=32, head_width=16, state=16, groups=2, length=LENGTH, use_time=False)
"""Four heads in two groups."""


def own(projected: Tensor, *rest: Tensor) -> Tensor:
    """What the model's block computes between its two linear maps, for the same arguments as `block`."""
    *scale, conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight = rest
    model = TimeAwareSSD(CONFIG, "quadratic").double()
    weights = {"conv.weight": conv_weight[:, None], "conv.bias": conv_bias}
    of_space = {"dt_bias": dt_bias, "A_log": A_log, "skip": skip, "norm.weight": norm_weight}
    inner = CONFIG.inner_width
    of_space |= {"out.weight": torch.eye(inner).double(), "out.bias": torch.zeros(inner).double()}
    z, xBC, dt = torch.split(projected, model.widths, dim=-1)
    mixed = torch.func.functional_call(model.conv, {k.removeprefix("conv."): v for k, v in weights.items()}, (xBC,))
    x, B, C = torch.split(mixed, model.split, dim=-1)
    arguments = (x, B, C, dt, z, scale[0] if scale else None)
    result: Tensor = torch.func.functional_call(model.state_space, of_space, arguments)
    return result


def fused(projected: Tensor, *rest: Tensor) -> Tensor:
    *scale, conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight = rest
    sizes = Sizes(CONFIG.heads, CONFIG.head_width, CONFIG.group_count, CONFIG.state)
    weights = (conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight)
    return block(projected, scale[0].transpose(1, 2) if scale else None, *weights, RMS_EPS, FORGOTTEN, sizes)


def own_transposed(projected: Tensor, *rest: Tensor) -> Tensor:
    """`a` has its positions before its heads, as the time path's convolution leaves it."""
    return own(projected, rest[0].transpose(1, 2), *rest[1:]) if len(rest) == 7 else own(projected, *rest)


def tensors_of(rows: int, length: int, scaled: bool, seed: int) -> tuple[list[Tensor], Tensor]:
    heads, inner = CONFIG.heads, CONFIG.inner_width
    channels = inner + 2 * CONFIG.group_count * CONFIG.state
    *tensors, gradient = normal(
        seed,
        *((rows, length, inner + channels + heads), (rows, LENGTH, heads), (channels, CONFIG.conv_width)),
        *((channels,), (heads,), (heads,), (heads,), (inner,), (rows, length, inner)),
    )
    tensors[4] = tensors[4] - 3  # steps of about 0.05, as the model has them
    return [m for k, m in enumerate(tensors) if scaled or k != 1], gradient


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, LENGTH]), st.booleans(), st.integers(0, 2**16))
def test_the_block_is_that_of_the_model(rows: int, length: int, scaled: bool, seed: int) -> None:
    raw, gradient = tensors_of(rows, length, scaled, seed)
    tensors = leaves(raw, torch.float32)
    found = both(fused, tensors, gradient.to(DEVICE))
    doubles = [m.detach().cpu().double().requires_grad_() for m in tensors]
    expected = both(own_transposed, doubles, gradient)
    assert found[0].is_contiguous()
    # On a GPU, the products of float32 round to TF32.
    assert max(errors([m.cpu() for m in found], expected)) < (1e-2 if GPU else 1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_in_16_bits_it_stays_within_its_rounding(scaled: bool) -> None:
    raw, gradient = tensors_of(3, LENGTH, scaled, 0)
    tensors = leaves(raw, HALF, wide=range(1, 9))
    found = both(fused, tensors, gradient.to(DEVICE))
    doubles = [m.detach().cpu().double().requires_grad_() for m in tensors]
    expected = both(own_transposed, doubles, gradient.to(HALF).double())
    assert [g.dtype for g in found[1:]] == [m.dtype for m in tensors]
    assert max(errors([m.cpu() for m in found], expected)) < (0.1 if GPU else 0.02)


@pytest.mark.parametrize("value", [-60.0, -9.0, -2.0, 0.0, 3.0, 30.0])
def test_small_steps_are_exact(value: float) -> None:
    """The step is in the output as the factor of skip, and in the gradient of the bias; the norm must not hide it."""
    x = torch.ones(1, 1, 1, 16, device=DEVICE)
    zero, one = torch.zeros(1, device=DEVICE), torch.ones(1, device=DEVICE)
    dt = torch.full((1, 1, 1), value, device=DEVICE)
    B = torch.zeros(1, 1, 1, 16, device=DEVICE)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    y = fused_ssd.scan(x, dt, zero, B, B, one, -100.0, zero)
    torch.set_float32_matmul_precision(before)
    expected = F.softplus(torch.tensor(value, dtype=torch.float64)).item()
    assert y[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-5 if GPU else 1e-6)


def test_no_rows_and_wrong_sizes() -> None:
    raw, gradient = tensors_of(0, 3, True, 0)
    y, *gradients = both(fused, leaves(raw, torch.float32), gradient.to(DEVICE))
    assert len(y) == 0
    assert all((g == 0).all() for g in gradients)
    tensors = leaves(tensors_of(2, 3, False, 0)[0], torch.float32)
    with pytest.raises(ConfigError, match="needs a projection for Sizes"):
        fused(tensors[0][..., 1:], *tensors[1:])


@pytest.mark.skipif(not GPU, reason="no GPU: CUDA graphs need one")
def test_a_cuda_graph_captures_it() -> None:
    raw, gradient = tensors_of(9, LENGTH, True, 0)
    tensors, gradient = leaves(raw, torch.float32), gradient.to(DEVICE)
    assert_captured(partial(both, fused, tensors, gradient))
