"""The project's Triton kernels against their plain counterparts in float64, value and gradients: on a GPU if there is
one, else in Triton's interpreter. `make triton` runs this file without a GPU."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.config import SSDForm
from mmm4rec.errors import ConfigError
from mmm4rec.model import ssd as ssd_module
from mmm4rec.model.kernels import choose_conv, shifted_sum
from mmm4rec.model.ssd import FORGOTTEN, choose, ssd
from tests.mmm4rec.triton_here import (
    DEVICE,
    EXAMPLES,
    GPU,
    HALF,
    TOLERANCES,
    Form,
    assert_captured,
    assert_same_bits,
    assert_takes_an_expanded_gradient,
    both,
    errors,
    leaves,
    normal,
)

# isort: split
from mmm4rec.model.fused import conv as fused_conv
from mmm4rec.model.fused import ssd as fused_ssd
from mmm4rec.model.fused.conv import conv_silu
from mmm4rec.model.fused.ssd import short_ssd

# Convolution.

CONV_SHAPES = st.tuples(
    st.sampled_from([1, 2, 3, 33]),  # sequences
    st.sampled_from([1, 2, 3, 7, 20]),  # positions
    st.sampled_from([1, 5, 16, 130]),  # channels
    st.integers(1, 8),  # width
    st.integers(0, 2**16),  # seed
)


def convolve(silu: bool, form: Form | None = None) -> Form:
    """`conv_silu`, or the reference, on a slice of a projection that is 6 wider."""

    def run(projection: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = projection[..., 2 : 2 + len(bias)]
        if form is None:
            return conv_silu(x, weight, bias, silu)
        y = form(x, weight[:, None], bias)
        return F.silu(y) if silu else y

    return run


def conv_tensors(shape: tuple[int, int, int, int, int]) -> tuple[list[Tensor], Tensor]:
    """The projection, weight and bias; and the gradient of the result, which is a slice too."""
    rows, length, channels, width, seed = shape
    *tensors, gradient = normal(
        seed, (rows, length, channels + 6), (channels, width), (channels,), (rows, length, channels + 1)
    )
    return tensors, gradient[..., 1:].to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=EXAMPLES, deadline=None)
@given(CONV_SHAPES, st.booleans())
def test_the_convolution_is_the_shifted_sum(dtype: torch.dtype, shape: tuple, silu: bool) -> None:
    raw, gradient = conv_tensors(shape)
    tensors = leaves(raw, dtype, wide=(1, 2))
    found = both(convolve(silu), tensors, gradient)
    # The reference gets the rounded numbers.
    expected = both(convolve(silu, shifted_sum), leaves(tensors, torch.float64, ()), gradient.to(dtype))
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    assert [g.dtype for g in found[1:]] == [m.dtype for m in tensors]
    assert max(errors(found, expected)) < TOLERANCES[dtype]


def test_many_sequences_share_a_partial_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_conv, "PARTIAL_SUMS", 2)
    raw, gradient = conv_tensors((700, 2, 3, 3, 0))
    tensors = leaves(raw, torch.float32)
    expected = both(convolve(True, shifted_sum), leaves(tensors, torch.float64), gradient)
    assert max(errors(both(convolve(True), tensors, gradient), expected)) < 1e-4


# SSD.

SSD_SHAPES = st.tuples(
    st.sampled_from([1, 2, 5]),  # sequences: a tile holds several short ones
    st.sampled_from([1, 3, 4, 7, 16, 20]),  # positions
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]),  # heads, groups
    st.sampled_from([1, 16, 24]),  # head width
    st.sampled_from([3, 16, 32]),  # state
    st.integers(0, 2**16),  # seed
)


def scan(shape: tuple, form: SSDForm | None = None) -> Form:
    """`short_ssd`, or the form of the name, on slices of one tensor."""
    _, _, (heads, groups), width, state, _ = shape

    def run(mixed: Tensor, delta: Tensor, A: Tensor, skip: Tensor) -> Tensor:
        x, B, C, _ = mixed.split([heads * width, groups * state, groups * state, 3], dim=-1)
        x, B, C = x.unflatten(-1, (heads, width)), B.unflatten(-1, (groups, state)), C.unflatten(-1, (groups, state))
        return (
            short_ssd(x, delta, A, B, C, skip, ssd_module.FORGOTTEN)
            if form is None
            else ssd(x, delta, A, B, C, form, skip)
        )

    return run


def ssd_tensors(shape: tuple, steps: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """What x, B and C are slices of, delta with transposed strides, A and skip; the gradient of the result."""
    rows, length, (heads, groups), width, state, seed = shape
    mixed, delta, A, skip, gradient = normal(
        seed,
        (rows, length, heads * width + 2 * groups * state + 3),
        (rows, heads, length),
        (heads,),
        (heads,),
        (rows, length, heads, width),
    )
    return [mixed, F.softplus(steps * delta).transpose(1, 2), -A.exp(), skip], gradient.to(DEVICE)


def ssd_errors(shape: tuple, dtype: torch.dtype, steps: float, form: SSDForm) -> list[float]:
    raw, gradient = ssd_tensors(shape, steps)
    tensors = leaves(raw, dtype, wide=(1, 2, 3))
    found = both(scan(shape), tensors, gradient)
    doubles = leaves(tensors, torch.float64)
    expected = both(scan(shape, form), doubles, gradient.to(dtype))
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    assert [g.dtype for g in found[1:]] == [m.dtype for m in tensors]
    differences = errors(found, expected)
    # The gradients of A and skip are sums that may all but cancel: their errors are relative to the terms.
    terms = doubles[1].abs().max() * (expected[0] * gradient).abs().sum()
    for place in (3, 4):
        largest = expected[place].abs().max().clamp(min=1e-3)
        differences[place] *= (largest / (largest + terms)).item()
    return differences


@settings(max_examples=EXAMPLES, deadline=None)
@given(SSD_SHAPES, st.sampled_from([0.0, 1.0, 30.0, 1e4]), st.sampled_from(["quadratic", "sequential"]))
def test_the_short_ssd_is_the_recurrence(shape: tuple, steps: float, form: SSDForm) -> None:
    assert max(ssd_errors(shape, torch.float32, steps, form)) < TOLERANCES[torch.float32]


@settings(max_examples=EXAMPLES, deadline=None)
@given(SSD_SHAPES)
def test_in_16_bits_the_short_ssd_stays_within_its_rounding(shape: tuple) -> None:
    assert max(ssd_errors(shape, HALF, 1.0, "quadratic")) < TOLERANCES[HALF]


@pytest.mark.parametrize("length", [32, 33, 64])
def test_the_short_ssd_of_longer_sequences(length: int) -> None:
    assert max(ssd_errors((2, length, (2, 1), 16, 16, length), torch.float32, 1.0, "sequential")) < 1e-4


@pytest.mark.parametrize("size", [64, 128])
def test_the_short_ssd_of_wide_heads_in_tf32(size: int) -> None:
    """TF32 has ten bits; the interpreter does not round to it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert max(ssd_errors((3, 64 if GPU else 5, (2, 1), size, size, 0), torch.float32, 1.0, "quadratic")) < 1e-2
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_a_clamped_log_decay_has_the_gradient_of_torch(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the floor, at it and below it. At the true floor exp is 0, and so are both gradients."""
    monkeypatch.setattr(ssd_module, "FORGOTTEN", -1.0)
    shape = (1, 3, (1, 1), 16, 16, 0)
    (mixed, _, A, skip), gradient = ssd_tensors(shape)
    delta = torch.tensor([0.5, step, 0.5], dtype=torch.float64)[None, :, None]
    tensors = leaves([mixed, delta, A * 0 - 1, skip], torch.float32)
    expected = both(scan(shape, "quadratic"), leaves(tensors, torch.float64), gradient)
    assert max(errors(both(scan(shape), tensors, gradient), expected)) < 1e-4


def test_a_nan_is_not_hidden() -> None:
    shape = (1, 6, (2, 1), 16, 16, 0)
    tensors = [m.detach() for m in leaves(ssd_tensors(shape)[0], torch.float32)]
    tensors[1][0, 2, 0] = torch.nan
    assert scan(shape)(*tensors)[0, 3:, 0].isnan().all()


def test_they_are_chosen_on_a_gpu() -> None:
    assert choose(20, device="cuda").form == "short"
    assert choose(64, device="cuda").form == "short"
    assert choose(65, device="cuda").form == "quadratic"
    assert choose(20, device="cuda", dtype=torch.float64).form == "quadratic"
    assert choose(20).form == "quadratic", "on a CPU triton is not even looked for"
    assert choose_conv(512, 4, device="cuda").form == "triton"
    assert choose_conv(512, 9, device="cuda").form == "torch"
    with pytest.raises(ConfigError, match="up to 64 positions"):
        choose(65, "short", "cuda")


# Both.

CONV_CASE = (9, 5, 20, 4, 0)
SSD_CASE = (5, 5, (2, 1), 16, 16, 0)


def cases() -> list[tuple[Form, list[Tensor], Tensor]]:
    conv, to_conv = conv_tensors(CONV_CASE)
    mixed, to_mixed = ssd_tensors(SSD_CASE)
    return [
        (convolve(True), leaves(conv, torch.float32), to_conv.float()),
        (scan(SSD_CASE), leaves(mixed, torch.float32), to_mixed.float()),
    ]


def test_the_same_inputs_give_the_same_bits_with_and_without_autocast() -> None:
    for case in cases():
        assert_same_bits(partial(both, *case))


def test_a_gradient_without_strides_of_its_own() -> None:
    for case in cases():
        assert_takes_an_expanded_gradient(*case)


def test_no_sequences() -> None:
    for shape, form in (((0, *CONV_CASE[1:]), convolve(True)), ((0, *SSD_CASE[1:]), scan(SSD_CASE))):
        raw, gradient = (conv_tensors if len(shape) == 5 else ssd_tensors)(shape)
        y, *gradients = both(form, leaves(raw, torch.float32), gradient)
        assert len(y) == 0
        assert all((g == 0).all() for g in gradients)


def test_what_cannot_run_says_why() -> None:
    x, weight = torch.ones(1, 3, 8, device=DEVICE), torch.ones(8, 9, device=DEVICE)
    with pytest.raises(ConfigError, match=r"1 to 8 wide and this one 9: set conv_width"):
        conv_silu(x, weight, weight[:, 0], silu=True)
    assert "no kernel for torch.float64" in str(fused_conv.missing(x.double(), weight[:, :4]))
    assert fused_conv.missing(x, weight[:, :4]) is None
    x, B = torch.ones(1, 3, 2, 16, device=DEVICE), torch.ones(1, 3, 1, 129, device=DEVICE)
    with pytest.raises(ConfigError, match=r"state up to 128 and this is 129: use another form"):
        short_ssd(x, x[..., 0], x[0, 0, :, 0], B, B, x[0, 0, :, 0], FORGOTTEN)
    assert "1 to 64 positions and these are 65" in str(fused_ssd.missing(x[:, :1].expand(1, 65, 2, 16), B))
    assert "no kernel for torch.float64" in str(fused_ssd.missing(x.double(), B))
    assert fused_ssd.missing(x, B[..., :128]) is None
    if GPU:
        assert "needs CUDA tensors and these are on cpu" in str(fused_conv.missing(x.cpu(), weight[:, :4]))
        assert "needs CUDA tensors and these are on cpu" in str(fused_ssd.missing(x.cpu(), B))


@pytest.mark.skipif(not GPU, reason="no GPU: CUDA graphs need one")
def test_a_cuda_graph_captures_them() -> None:
    for case in cases():
        assert_captured(partial(both, *case))
