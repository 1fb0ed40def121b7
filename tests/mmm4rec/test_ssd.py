"""The quadratic form equals the recurrence, in value and gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmm4rec.ssd import choose, quadratic, segsum, sequential, ssd

SHAPES = st.tuples(
    st.integers(1, 3),  # batch
    st.integers(1, 12),  # positions
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]),  # heads, groups
    st.integers(1, 4),  # head width
    st.integers(1, 5),  # state
    st.integers(0, 2**16),  # seed
)


def inputs(shape: tuple, dtype: torch.dtype = torch.float64, steps: float = 1.0) -> list[torch.Tensor]:
    batch, length, (heads, groups), width, state, seed = shape
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=random, dtype=dtype)

    tensors = [
        normal(batch, length, heads, width),
        torch.nn.functional.softplus(steps * normal(batch, length, heads)),
        -torch.exp(normal(heads)),
        normal(batch, length, groups, state),
        normal(batch, length, groups, state),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_quadratic_is_sequential(shape: tuple) -> None:
    tensors = inputs(shape)
    found, expected = quadratic(*tensors), sequential(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_single_precision_stays_close(shape: tuple) -> None:
    tensors = inputs(shape, torch.float32)
    torch.testing.assert_close(quadratic(*tensors), sequential(*tensors), rtol=1e-4, atol=1e-4)


def test_huge_steps_give_finite_gradients() -> None:
    tensors = inputs((2, 20, (2, 2), 3, 4, 0), torch.float32, steps=200.0)
    quadratic(*tensors).square().sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_segsum_sums_segments() -> None:
    v = torch.tensor([1.0, 2.0, 4.0])
    inf = float("inf")
    assert segsum(v).tolist() == [[0, -inf, -inf], [2, 0, -inf], [6, 4, 0]]


def test_the_choice_can_be_overridden() -> None:
    assert choose(20).form == "quadratic"
    assert "20 positions" in choose(20).reason
    assert choose(20, "sequential").form == "sequential"
    tensors = inputs((2, 5, (2, 1), 3, 4, 0))
    torch.testing.assert_close(ssd(*tensors), ssd(*tensors, form="sequential"))
