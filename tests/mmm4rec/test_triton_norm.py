"""The norms with dropout and with a gate against torch in float64, value and gradients: on a GPU if there is one, else
in Triton's interpreter. `make triton` runs this file without a GPU."""

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.errors import ConfigError
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
    captured,
    errors,
    leaves,
    normal,
)

# isort: split
from mmm4rec.model.fused import norm as fused_norm
from mmm4rec.model.fused.norm import dropped_norm, gated_norm

EPS = 1e-5
ROWS = st.sampled_from([(1,), (3,), (2, 5), (2, 3, 7)])
WIDTHS = st.sampled_from([1, 3, 33, 256, 600])
SEEDS = st.integers(0, 2**16)
DTYPES = st.sampled_from([torch.float32, HALF])


def drawn(seed: int) -> Tensor:
    return torch.tensor([seed], device=DEVICE)


def scales(shape: Sequence[int], p: float, seed: int) -> Tensor:
    """By how much dropout multiplies each element of x, as the results of the forward kernel show it."""

    def positive(x: Tensor) -> Tensor:
        ones = torch.ones(shape[-1], device=DEVICE)
        return dropped_norm(x, (), ones, 0 * ones, EPS, p, drawn(seed), torch.float32) > 0

    ones = torch.ones(*shape, device=DEVICE)
    first = ones.clone()
    first[..., 1:] = 0
    # Of a row of ones, an element is kept if it is above the mean. If all are kept or none, the norm is 0, and the
    # first element tells which. A row of one column has the norm 0 and the gradient 0 in any case.
    kept = positive(ones)
    kept |= ~kept.any(-1, keepdim=True) & positive(first)[..., :1]
    return kept / (1 - p)


def norm_case(rows: tuple[int, ...], width: int, count: int, seed: int) -> tuple[tuple[int, ...], list[Tensor], Tensor]:
    """The shape; x and the others as slices of wider rows, weight and bias; the gradient of the result."""
    *tensors, weight, bias, gradient = normal(
        seed, *[(*rows, width + 3)] * (1 + count), (width,), (width,), (*rows, width)
    )
    return (*rows, width), [*tensors, weight, bias], gradient.to(DEVICE)


def added(width: int, p: float, seed: int, dtype: torch.dtype) -> Form:
    once = drawn(seed)  # not in `run`: a CUDA graph cannot copy it from the CPU

    def run(*tensors: Tensor) -> Tensor:
        x, *others, weight, bias = tensors
        x, *others = (m[..., 2 : 2 + width] for m in (x, *others))
        return dropped_norm(x, others, weight, bias, EPS, p, once, dtype)

    return run


def added_by_torch(width: int, scale: Tensor | float) -> Form:
    def run(*tensors: Tensor) -> Tensor:
        x, *others, weight, bias = tensors
        x, *others = (m[..., 2 : 2 + width] for m in (x, *others))
        return F.layer_norm(x * scale + sum(others), (width,), weight, bias, EPS)

    return run


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(ROWS, WIDTHS, st.integers(0, 2), st.sampled_from([0.0, 0.3]), DTYPES, DTYPES, SEEDS)
def test_the_norm_of_a_sum_with_dropout(
    rows: tuple[int, ...], width: int, count: int, p: float, dtype: torch.dtype, other: torch.dtype, seed: int
) -> None:
    shape, raw, gradient = norm_case(rows, width, count, seed)
    x, *rest = leaves(raw, dtype, wide=(len(raw) - 1, len(raw) - 2))
    others = [m.detach().to(other).requires_grad_() for m in rest[:count]]
    tensors = [x, *others, *rest[count:]]
    found = both(added(width, p, seed, dtype), tensors, gradient)
    doubles = leaves(tensors, torch.float64)
    scale = scales(shape, p, seed) if p else 1.0
    expected = both(added_by_torch(width, scale), doubles, gradient.to(dtype))
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    assert [g.dtype for g in found[1:]] == [m.dtype for m in tensors]
    # A row of one column has the gradient 0, and the norm divides what rounding leaves of it by a deviation of 0.003.
    assert max(errors(found, expected, smallest=1e-2)) < max(TOLERANCES[dtype], TOLERANCES[other])


@settings(max_examples=EXAMPLES, deadline=None)
@given(ROWS, WIDTHS, DTYPES, SEEDS)
def test_the_gated_norm(rows: tuple[int, ...], width: int, dtype: torch.dtype, seed: int) -> None:
    def run(y: Tensor, projection: Tensor, weight: Tensor) -> Tensor:
        return gated_norm(y, projection[..., 8 : 8 + width], weight, EPS, dtype)

    def by_torch(y: Tensor, projection: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(y * F.silu(projection[..., 8 : 8 + width]), (width,), weight, EPS)

    *raw, gradient = normal(seed, (*rows, width), (*rows, width + 16), (width,), (*rows, width))
    gradient = gradient.to(DEVICE)
    tensors = leaves(raw, dtype, wide=(2,))
    found = both(run, tensors, gradient)
    expected = both(by_torch, leaves(tensors, torch.float64), gradient.to(dtype))
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    assert [g.dtype for g in found[1:]] == [m.dtype for m in tensors]
    assert max(errors(found, expected)) < TOLERANCES[dtype]


def test_many_rows_share_a_partial_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_norm, "PARTIAL_SUMS", 2)
    shape, raw, gradient = norm_case((301,), 20, 1, 0)
    tensors = leaves(raw, torch.float32)
    expected = both(added_by_torch(20, scales(shape, 0.3, 7)), leaves(tensors, torch.float64), gradient)
    assert max(errors(both(added(20, 0.3, 7, torch.float32), tensors, gradient), expected)) < 1e-4


@pytest.mark.parametrize("rows", [(2, 7), (2, 150)])
def test_each_part_of_the_rows_has_its_own_weights(rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_norm, "PARTIAL_SUMS", 4)
    x, other, weight, bias, gradient = normal(0, (*rows, 20), (*rows, 20), (2, 20), (2, 20), (*rows, 20))
    tensors, gradient = leaves([x, other, weight, bias], torch.float32), gradient.to(DEVICE)

    def by_torch(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x + other, (20,), None, None, EPS) * weight[:, None] + bias[:, None]

    def run(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return dropped_norm(x, (other,), weight, bias, EPS, 0.0, None, torch.float32)

    expected = both(by_torch, leaves(tensors, torch.float64), gradient)
    assert max(errors(both(run, tensors, gradient), expected)) < 1e-4


def test_the_share_that_is_dropped() -> None:
    """Of 65,536 elements, within five standard deviations. All columns and all of the four numbers of a draw."""
    for p in (0.1, 0.5):
        dropped = scales((512, 128), p, 11) == 0
        assert abs(dropped.double().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / 65536)
        of_columns = dropped.double().mean(0)
        assert (of_columns - p).abs().max() < 6 * math.sqrt(p * (1 - p) / 512)
        # Neighbours are independent, in a row and from row to row.
        for one, next_one in ((dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1])):
            together = (one & next_one).double().mean().item()
            assert abs(together - p * p) < 6 * math.sqrt(p * p * (1 - p * p) / 65000)


def test_a_seed_repeats_its_mask_and_others_differ() -> None:
    one, again, other = (scales((64, 32), 0.5, seed) for seed in (3, 3, 4))
    high = scales((64, 32), 0.5, 3 + 2**32)
    assert torch.equal(one, again)
    for different in (other, high):
        assert 0.4 < (one != different).double().mean() < 0.6


def test_without_a_seed_nothing_is_dropped() -> None:
    x, weight, bias = (m.to(DEVICE, torch.float32) for m in normal(0, (5, 16), (16,), (16,)))
    y = dropped_norm(x, (), weight, bias, EPS, 0.5, None, torch.float32)
    torch.testing.assert_close(y, F.layer_norm(x, (16,), weight, bias, EPS))


def test_rows_without_one_stride_are_copied() -> None:
    raw = normal(0, (3, 4, 16), (4, 3, 16), (3, 16, 4), (16,), (16,))
    x, turned, standing, weight, bias = (m.to(DEVICE, torch.float32) for m in raw)
    others = turned.transpose(0, 1), standing.mT
    y = dropped_norm(x, others, weight, bias, EPS, 0.0, None, torch.float32)
    torch.testing.assert_close(y, F.layer_norm(x + sum(others), (16,), weight, bias, EPS))
    expanded = x[:1, :1].expand(3, 4, 16)
    y = gated_norm(expanded, others[0], weight, EPS, torch.float32)
    torch.testing.assert_close(y, F.rms_norm(expanded * F.silu(others[0]), (16,), weight, EPS))


def cases() -> list[tuple[Form, list[Tensor], Tensor]]:
    _, raw, gradient = norm_case((9, 5), 20, 2, 0)
    y, z, weight = normal(1, (9, 5, 20), (9, 5, 20), (20,))

    def gated(y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        return gated_norm(y, z, weight, EPS, torch.float32)

    return [
        (added(20, 0.3, 5, torch.float32), leaves(raw, torch.float32), gradient.float()),
        (gated, leaves([y, z, weight], torch.float32), gradient.float()),
    ]


def test_the_same_inputs_give_the_same_bits_with_and_without_autocast() -> None:
    for case in cases():
        assert_same_bits(partial(both, *case))


def test_a_gradient_without_strides_of_its_own() -> None:
    for case in cases():
        assert_takes_an_expanded_gradient(*case)


def test_a_shared_gradient_is_not_added_twice() -> None:
    """x and both others have one gradient tensor. They are read by another operation too, which adds to it."""
    _, raw, gradient = norm_case((4,), 16, 2, 0)
    tensors = leaves(raw, torch.float32)

    def with_more(form: Form) -> Form:
        return lambda *all_: form(*all_) + sum((k + 2) * m[..., 2:18] for k, m in enumerate(all_[:3]))

    expected = both(with_more(added_by_torch(16, 1.0)), leaves(tensors, torch.float64), gradient)
    assert max(errors(both(with_more(added(16, 0.0, 0, torch.float32)), tensors, gradient), expected)) < 1e-4


def test_no_rows() -> None:
    _, raw, gradient = norm_case((0, 3), 16, 1, 0)
    y, *gradients = both(added(16, 0.3, 0, torch.float32), leaves(raw, torch.float32), gradient)
    assert y.shape == (0, 3, 16)
    assert all((g == 0).all() for g in gradients)


def test_a_nan_is_not_hidden() -> None:
    x = torch.ones(3, 16, device=DEVICE)
    x[1] = torch.nan
    y = dropped_norm(x, (), x[0], x[0], EPS, 0.9, drawn(0), torch.float32)
    assert y[1].isnan().all()
    assert y[::2].isfinite().all()


def test_what_cannot_run_says_why() -> None:
    x = torch.ones(3, 16, device=DEVICE)

    def norm(x: Tensor, *others: Tensor, p: float = 0.0) -> Tensor:
        return dropped_norm(x, others, torch.ones(2, 16, device=DEVICE), torch.ones(2, 16), EPS, p, None, torch.float32)

    with pytest.raises(ConfigError, match="up to 2 tensors and these are 3"):
        norm(x, x, x, x)
    with pytest.raises(ConfigError, match=r"dropout of 1\.0 is not possible"):
        norm(x, p=1.0)
    with pytest.raises(ConfigError, match="2 rows of weights and 3 rows"):
        norm(x)
    with pytest.raises(ConfigError, match=r"no kernel for torch\.float64"):
        norm(x.double())
    with pytest.raises(ConfigError, match="one shape"):
        gated_norm(x, x[:2], x[0], EPS, torch.float32)
    assert "up to 1024 wide and these are 1025" in str(fused_norm.missing(x[:, :1].expand(3, 1025)))
    assert fused_norm.missing(x, x) is None
    if GPU:
        assert "need CUDA tensors and these are on cpu" in str(fused_norm.missing(x.cpu()))


@pytest.mark.skipif(not GPU, reason="no GPU: CUDA graphs need one")
def test_a_cuda_graph_captures_them() -> None:
    for case in cases():
        assert_captured(partial(both, *case))


@pytest.mark.skipif(not GPU, reason="no GPU: CUDA graphs need one")
def test_a_cuda_graph_draws_fresh_masks() -> None:
    x, one = torch.randn(64, 256, device=DEVICE), torch.ones(256, device=DEVICE)

    def run(x: Tensor) -> Tensor:
        seed = torch.randint(2**62, (1,), device=DEVICE)
        return dropped_norm(x, (), one, one * 0, EPS, 0.5, seed, torch.float32)

    graph, (y, _) = captured(partial(both, run, [x.requires_grad_()], torch.ones_like(x)))
    graph.replay()
    first = y.detach().clone()
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(first, y)
