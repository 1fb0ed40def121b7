"""The Triton kernels of the time path against the modules of `gaps` in float64, value and gradients. `make triton` runs
this file without a GPU."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.mmm4rec.triton_here import (  # isort: skip  (before triton is imported)
    DEVICE,
    EXAMPLES,
    GPU,
    HALF,
    assert_captured,
    assert_same_bits,
    errors,
)

import triton
import triton.language as tl

from mmm4rec.errors import ConfigError
from mmm4rec.model.fused import gaps as fused_gaps
from mmm4rec.model.fused import time as fused_time
from mmm4rec.model.fused.gaps import gap_gate, gap_norm
from mmm4rec.model.fused.time import kept_share, step_scale
from mmm4rec.model.gaps import SOFT_EPS, GapGate, GapNorm, StepScale

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
EPS = 1e-12


def eps_of(norm: GapNorm, lengths: Tensor | None) -> float:
    """What `norm` adds to the variance."""
    return norm.eps if lengths is None else SOFT_EPS


P = 0.3
SHAPES = st.tuples(
    st.sampled_from([1, 2, 5, 37]),  # sequences
    st.sampled_from([1, 2, 3, 8]),  # heads
    st.sampled_from([1, 5, 20, 33]),  # positions
    st.integers(0, 2**16),  # seed
)
RATES = st.sampled_from([0.0, P])


@triton.jit
def _draw(seed, mask, count, p):
    index = tl.program_id(0) * 64 + tl.arange(0, 64)
    tl.store(mask + index, kept_share(seed, index, p), mask=index < count)


def drawn(shape: Sequence[int], p: float, seed: Tensor) -> Tensor:
    """The factors of dropout: each is 0 or 1 / (1 - p)."""
    mask = torch.ones(tuple(shape), device=DEVICE)
    if p > 0:
        _draw[(-(-mask.numel() // 64),)](seed, mask, mask.numel(), p)
    return mask.double()


def seed_of(number: int) -> Tensor:
    return torch.tensor([number], device=DEVICE)


class Masked(nn.Module):
    """Dropout with a mask that is known."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def signal(shape: Sequence[int], expanded: bool, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """D [N,K,L]: its own memory, a slice with odd strides, or one signal for all heads."""
    count, heads, length = shape
    if expanded:
        return torch.randn(count, 1, length, generator=random).to(DEVICE, dtype).requires_grad_().expand(-1, heads, -1)
    return torch.randn(count, length + 1, heads, generator=random).to(DEVICE, dtype).requires_grad_()[:, 1:].mT


def randomised(module: nn.Module, random: torch.Generator, size: float = 0.5) -> list[Tensor]:
    """The parameters of the module in float32, random; the module itself gets the same numbers in float64."""
    for parameter in module.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=random)
    singles = [p.detach().to(DEVICE).requires_grad_() for p in module.parameters()]
    module.to(DEVICE, torch.float64)
    return singles


def differences(
    found: Tensor, expected: Tensor, to_found: Sequence[Tensor], to_expected: Sequence[Tensor], random: torch.Generator
) -> list[float]:
    """The relative errors of the result and of the gradients of a weighted sum of it."""
    gradient = torch.randn(found.mT.shape, generator=random).to(DEVICE, found.dtype).mT
    one = torch.autograd.grad(found, to_found, gradient)
    other = torch.autograd.grad(expected, to_expected, gradient.double())
    assert found.is_contiguous()
    # A sum over few signals may all but cancel: its terms are about 1.
    return errors([found, *one], [expected, *other], 0.3)


def scale_weights(module: StepScale, singles: list[Tensor]) -> list[Tensor]:
    """The parameters in the order of `step_scale`."""
    named = dict(zip((name for name, _ in module.named_parameters()), singles, strict=True))
    weights = [named[f"{name}.{kind}"] for name in ("mlp_in", "mlp_out") for kind in ("weight", "bias")]
    for name in ("conv_in", "conv_out"):
        weights += [named[f"{name}.weight"][:, 0], named[f"{name}.bias"]]
    return weights


def scale_errors(
    shape: tuple, width: int, expanded: bool, p: float, dtype: torch.dtype = torch.float32, size: float = 0.5
) -> list[float]:
    random, seed = torch.Generator().manual_seed(shape[3]), seed_of(shape[3])
    module = StepScale(shape[2], shape[1], width, 0.0)
    singles = randomised(module, random, size)
    module.dropout = Masked(drawn(shape[:3], p, seed))
    D = signal(shape[:3], expanded, dtype, random)
    doubled = D.detach().double().requires_grad_()
    found = step_scale(D, *scale_weights(module, singles), p, seed)
    assert found.dtype == dtype
    return differences(found, module(doubled), [D, *singles], [doubled, *module.parameters()], random)


@settings(max_examples=EXAMPLES, deadline=None)
@given(SHAPES, st.integers(1, 8), st.booleans(), RATES)
def test_the_step_scale(shape: tuple, width: int, expanded: bool, p: float) -> None:
    assert max(scale_errors(shape, width, expanded, p)) < TOLERANCES[torch.float32]


def test_the_step_scale_of_more_sequences_than_a_tile_has() -> None:
    assert max(scale_errors((70, 2, 20, 1), 4, True, P)) < TOLERANCES[torch.float32]
    assert max(scale_errors((33, 2, 64, 1), 4, False, P)) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("size", [0.02, 3.0])
def test_the_step_scale_where_tanhshrink_is_flat_and_where_it_is_steep(size: float) -> None:
    assert max(scale_errors((9, 2, 20, 1), 4, False, 0.0, size=size)) < TOLERANCES[torch.float32]


@triton.jit
def _shrink(x, y, count):
    index = tl.program_id(0) * 64 + tl.arange(0, 64)
    tl.store(y + index, fused_time._tanhshrink(tl.load(x + index, mask=index < count)), mask=index < count)


def test_tanhshrink_keeps_its_digits() -> None:
    """torch's x - tanh(x) in float32 has no correct digit at 1e-4."""
    x = torch.logspace(-4, 2, 200, device=DEVICE)
    x = torch.cat([x, -x, torch.tensor([0.5, -0.5, 0.499999], device=DEVICE)])
    y = torch.empty_like(x)
    _shrink[(-(-len(x) // 64),)](x, y, len(x))
    torch.testing.assert_close(y.double(), nn.functional.tanhshrink(x.double()), rtol=1e-5, atol=0)


def gap_lengths(count: int, length: int, random: torch.Generator) -> Tensor:
    return torch.randint(1, length + 1, (count,), generator=random).to(DEVICE)


def real(lengths: Tensor | None, length: int) -> Tensor | None:
    return None if lengths is None else torch.arange(length, device=DEVICE) < lengths[:, None]


def gate_errors(
    shape: tuple, published: bool, expanded: bool, p: float, dtype: torch.dtype = torch.float32
) -> list[float]:
    random, seed = torch.Generator().manual_seed(shape[3]), seed_of(shape[3])
    module = GapGate(shape[2], EPS if shape[2] > 1 else 0.1, 0.0)
    singles = randomised(module, random)
    module.dropout = Masked(drawn(shape[:3], p, seed))
    D, a = signal(shape[:3], expanded, dtype, random), signal(shape[:3], False, dtype, random)
    doubled = [m.detach().double().requires_grad_() for m in (D, a)]
    lengths = None if published else gap_lengths(shape[0], shape[2], random)
    mask = real(lengths, shape[2])
    weight, *rest = singles
    found = gap_gate(D, a, lengths, weight[0], *rest, eps_of(module.norm, lengths), p, seed)
    expected = module(*doubled, None if mask is None else mask[:, None])
    assert found.dtype == dtype
    return differences(found, expected, [D, a, *singles], [*doubled, *module.parameters()], random)


@settings(max_examples=EXAMPLES, deadline=None)
@given(SHAPES, st.booleans(), st.booleans(), RATES)
def test_the_gap_gate(shape: tuple, published: bool, expanded: bool, p: float) -> None:
    assert max(gate_errors(shape, published, expanded, p)) < 5e-4


@settings(max_examples=EXAMPLES, deadline=None)
@given(SHAPES, st.booleans(), RATES)
def test_the_gap_norm(shape: tuple, published: bool, p: float) -> None:
    count, _, length, number = shape
    random, seed = torch.Generator().manual_seed(number), seed_of(number)
    module = GapNorm(length, EPS if length > 1 else 0.1)
    singles = randomised(module, random)
    x = torch.randn(count, length + 1, generator=random).to(DEVICE)[:, 1:]
    lengths = None if published else gap_lengths(count, length, random)
    found = gap_norm(x, lengths, *singles, eps_of(module, lengths), p, seed)
    expected = module(x.double() * drawn(x.shape, p, seed), real(lengths, length))
    assert max(differences(found, expected, singles, list(module.parameters()), random)) < 5e-4


@settings(max_examples=EXAMPLES, deadline=None)
@given(SHAPES, st.booleans())
def test_in_16_bits_they_stay_within_the_rounding(shape: tuple, expanded: bool) -> None:
    assert max(scale_errors(shape, 4, expanded, P, HALF)) < TOLERANCES[HALF]
    # Over few positions, the published norm would enlarge the rounding of the reference's own inputs.
    assert max(gate_errors(shape, False, expanded, P, HALF)) < TOLERANCES[HALF]


def test_many_signals_share_a_partial_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_gaps, "PARTIAL_SUMS", 2)
    assert max(gate_errors((60, 3, 5, 0), False, True, P)) < 1e-4


def test_dropout_keeps_its_share_and_follows_the_seed() -> None:
    shape = (40, 8, 20)
    first, same, other = (drawn(shape, P, seed_of(number)) for number in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert abs((first > 0).double().mean().item() - (1 - P)) < 0.02  # four deviations
    torch.testing.assert_close(first.max().item(), 1 / (1 - P))


def cases(p: float = P) -> list[tuple]:
    """The three functions on some tensors, and those that get gradients."""
    random = torch.Generator().manual_seed(0)
    seed, lengths = seed_of(5), gap_lengths(6, 5, random)
    scale, gate, norm = StepScale(5, 2, 4, 0.0), GapGate(5, EPS, 0.0), GapNorm(5, EPS)
    D, a = signal((6, 2, 5), True, torch.float32, random), signal((6, 2, 5), False, torch.float32, random)
    to_scale, to_gate, to_norm = (randomised(module, random) for module in (scale, gate, norm))
    return [
        (lambda: step_scale(D, *scale_weights(scale, to_scale), p, seed), [D, *to_scale]),
        (lambda: gap_gate(D, a, lengths, to_gate[0][0], *to_gate[1:], SOFT_EPS, p, seed), [D, a, *to_gate]),
        (lambda: gap_norm(a[:, 0].detach(), lengths, *to_norm, SOFT_EPS, p, seed), to_norm),
    ]


def run(case: tuple) -> list[Tensor]:
    function, tensors = case
    y = function()
    return [y, *torch.autograd.grad(y.square().sum(), tensors)]


def test_the_same_inputs_give_the_same_bits_with_and_without_autocast() -> None:
    for case in cases():
        assert_same_bits(partial(run, case))


def test_without_a_seed_or_a_rate_nothing_is_dropped() -> None:
    random = torch.Generator().manual_seed(0)
    D, weights = signal((3, 2, 5), False, torch.float32, random), randomised(StepScale(5, 2, 4, 0.0), random)
    weights = scale_weights(StepScale(5, 2, 4, 0.0), weights)
    whole = step_scale(D, *weights)
    assert torch.equal(whole, step_scale(D, *weights, 0.0, seed_of(1)))
    assert torch.equal(whole, step_scale(D, *weights, P, None))
    assert not torch.equal(whole, step_scale(D, *weights, P, seed_of(1)))


def test_a_gradient_without_strides_of_its_own() -> None:
    for function, tensors in cases():
        y = function()
        ones = torch.autograd.grad(y, tensors, torch.ones_like(y))
        for one, other in zip(torch.autograd.grad(function().sum(), tensors), ones, strict=True):
            assert torch.equal(one, other)


def test_no_sequences() -> None:
    random = torch.Generator().manual_seed(0)
    D, module = signal((0, 2, 5), False, torch.float32, random), StepScale(5, 2, 4, 0.0)
    weights = scale_weights(module, randomised(module, random))
    y = step_scale(D, *weights, P, seed_of(1))
    assert y.shape == (0, 2, 5)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), weights))
    weights = randomised(GapGate(5, EPS, 0.0), random)
    y = gap_gate(D, D, None, weights[0][0], *weights[1:], EPS, P, seed_of(1))
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), weights))


def test_what_cannot_run_says_why() -> None:
    D = torch.ones(1, 2, 5, device=DEVICE)
    assert fused_time.missing(D, 8) is None
    assert "1 to 8 wide and these are 9: set conv_width" in str(fused_time.missing(D, 9))
    assert "no kernel for torch.float64" in str(fused_time.missing(D.double()))
    assert "1 to 64 positions and these are 65" in str(fused_time.missing(D[..., :1].expand(1, 2, 65)))
    assert "1 to 32 heads and these are 33" in str(fused_time.missing(D[:, :1].expand(1, 33, 5)))
    assert "use smaller batches" in str(fused_time.missing(D[:, :1, :1].expand(2**25, 32, 2)))
    with pytest.raises(ConfigError, match=r"no kernel for torch\.float64"):
        gap_norm(D[0].double(), None, D[0, 0], D[0, 0], EPS)
    with pytest.raises(ConfigError, match="detach them"):
        gap_norm(D[0].clone().requires_grad_(), None, D[0, 0], D[0, 0], EPS)
    if GPU:
        assert "needs CUDA tensors and these are on cpu" in str(fused_time.missing(D.cpu()))


@pytest.mark.skipif(not GPU, reason="no GPU: CUDA graphs need one")
def test_a_cuda_graph_captures_them() -> None:
    for case in cases():
        assert_captured(partial(run, case))


def test_gaps_in_seconds() -> None:
    """The published mode has them, up to the age of the last interaction."""
    module = GapNorm(20, EPS).to(DEVICE)
    gaps = 1e9 * torch.rand(7, 20, generator=torch.Generator().manual_seed(0)).to(DEVICE) - 5e8
    found = gap_norm(gaps, None, module.weight, module.bias, EPS)
    torch.testing.assert_close(found, module(gaps), rtol=1e-4, atol=1e-5)
