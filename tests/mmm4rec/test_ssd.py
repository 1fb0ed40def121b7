"""Every form of the SSD equals the recurrence, in value and gradient; the choice among them."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmm4rec.config import SSDForm
from mmm4rec.errors import ConfigError
from mmm4rec.model.ssd import QUADRATIC_UP_TO, choose, chunked, quadratic, segsum, sequential, ssd

SHAPES = st.tuples(
    st.integers(1, 3),  # batch
    st.integers(1, 24),  # positions
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]),  # heads, groups
    st.integers(1, 4),  # head width
    st.integers(1, 5),  # state
    st.integers(0, 2**16),  # seed
)
FORMS = st.one_of(st.just(quadratic), st.integers(1, 30).map(lambda chunk: functools.partial(chunked, chunk=chunk)))
Form = Callable[..., Tensor]


def inputs(shape: tuple, dtype: torch.dtype = torch.float64, steps: float = 1.0) -> list[Tensor]:
    batch, length, (heads, groups), width, state, seed = shape
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, dtype=torch.float64)

    tensors = [
        normal(batch, length, heads, width),
        torch.nn.functional.softplus(steps * normal(batch, length, heads)),
        -torch.exp(normal(heads)),
        normal(batch, length, groups, state),
        normal(batch, length, groups, state),
    ]
    # Steps and decays are float32 at least, as parameters are under autocast.
    wide = dtype if dtype.itemsize > 2 else torch.float32
    return [m.to(wide if i in (1, 2) else dtype).requires_grad_() for i, m in enumerate(tensors)]


def errors(form: Form, tensors: list[Tensor]) -> list[float]:
    """The largest error of the result and of each gradient, relative to the largest entry, beside the recurrence
    on the same numbers in float64.

    The gradient of A is a sum of steps times decayed terms that may all but cancel: its error is relative to them.
    """
    doubles = [m.detach().double().requires_grad_() for m in tensors]
    found, expected = form(*tensors), sequential(*doubles)
    assert found.shape == expected.shape
    assert found.dtype == tensors[0].dtype
    weights = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found * weights.to(found)).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), doubles)
    scales = [other.abs().max() for other in (expected, *theirs)]
    scales[3] += doubles[1].abs().max() * (expected * weights).abs().sum()
    differences = [one.double() - other for one, other in zip((found, *ours), (expected, *theirs), strict=True)]
    return [(d.abs().max() / s.clamp(min=1e-6)).item() for d, s in zip(differences, scales, strict=True)]


@settings(max_examples=120, deadline=None)
@given(FORMS, SHAPES, st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_it_is_the_recurrence(form: Form, shape: tuple, steps: float) -> None:
    assert max(errors(form, inputs(shape, steps=steps))) < 1e-9


@settings(max_examples=60, deadline=None)
@given(FORMS, SHAPES, st.sampled_from([1.0, 1e4, 1e30]))
def test_single_precision_stays_close(form: Form, shape: tuple, steps: float) -> None:
    """Huge steps among small ones too: the small ones keep their digits."""
    assert max(errors(form, inputs(shape, torch.float32, steps))) < 1e-3


@settings(max_examples=60, deadline=None)
@given(FORMS, SHAPES)
def test_bfloat16_stays_within_its_rounding(form: Form, shape: tuple) -> None:
    # Sums of rounded terms may cancel, most of all in the gradient of A, one number per head.
    assert max(errors(form, inputs(shape, torch.bfloat16))[:2]) < 0.05


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_chunks_of_the_usual_size(length: int) -> None:
    assert max(errors(chunked, inputs((2, length, (4, 2), 8, 16, length), torch.float32))) < 1e-4


@pytest.mark.parametrize("form", ["quadratic", "chunked"])
def test_under_autocast_decays_are_summed_in_single_precision(form: SSDForm) -> None:
    """200 steps of 1/3: summed in bfloat16 the total would stand still at 64."""
    tensors = [m.detach() for m in inputs((1, 200, (2, 1), 4, 8, 0), torch.bfloat16)]
    tensors[1] = torch.full_like(tensors[1], 1 / 3).bfloat16()
    tensors[2] = torch.full_like(tensors[2], -0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ssd(*tensors, form=form)
    expected = sequential(*(m.double() for m in tensors))
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("form", ["quadratic", "chunked"])
@pytest.mark.parametrize("steps", [200.0, 1e30])
def test_huge_steps_give_finite_gradients(form: SSDForm, steps: float) -> None:
    tensors = inputs((2, 150, (2, 2), 3, 4, 0), torch.float32, steps)
    (ssd(*tensors, form=form) / steps).square().mean().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_nan_is_not_hidden() -> None:
    for form in (quadratic, functools.partial(chunked, chunk=2)):
        tensors = [m.detach() for m in inputs((1, 6, (2, 1), 3, 4, 0))]
        tensors[1][0, 2, 0] = torch.nan
        assert form(*tensors)[0, 3:, 0].isnan().all()


def test_segsum_sums_segments() -> None:
    v = torch.tensor([1.0, 2.0, 4.0])
    inf = float("inf")
    assert segsum(v).tolist() == [[0, -inf, -inf], [2, 0, -inf], [6, 4, 0]]


def test_short_sequences_take_the_quadratic_form_and_long_ones_the_chunked() -> None:
    limit = QUADRATIC_UP_TO["cpu"]
    assert [choose(length).form for length in (1, 20, limit, limit + 1, 8192)] == ["quadratic"] * 3 + ["chunked"] * 2
    assert choose(20).reason.startswith("20 positions")
    assert "linear" in choose(8192).reason


@pytest.mark.parametrize("form", ["sequential", "quadratic", "chunked"])
def test_the_choice_can_be_overridden(form: SSDForm) -> None:
    assert choose(20, form).form == form
    assert choose(20, form).reason == f"ssd_form is set to {form}"
    tensors = inputs((2, 150, (2, 1), 3, 4, 0))
    torch.testing.assert_close(ssd(*tensors, form=form), ssd(*tensors))


def test_a_form_that_cannot_run_here_says_what_is_missing() -> None:
    tensors = inputs((1, 2, (1, 1), 1, 1, 0))
    with pytest.raises(ConfigError, match=r"'triton'.*mamba-ssm needs CUDA.*on cpu.*set ssd_form to auto"):
        ssd(*tensors, form="triton")
    with pytest.raises(ConfigError, match=r"'triton'.*no kernel for torch.float64"):
        choose(20, "triton", "cuda", torch.float64)
    with pytest.raises(ConfigError, match=r"'fast' is unknown.*chunked"):
        ssd(*tensors, form="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["sequential", "quadratic", "chunked"])
def test_the_skip_takes_delta_times_x(form: SSDForm) -> None:
    x, delta, A, B, C = inputs((2, 70, (4, 2), 3, 5, 0))
    skip = torch.tensor([1.0, -2, 0, 0.5], dtype=torch.float64, requires_grad=True)
    tensors = [x, delta, A, B, C, skip]
    found = ssd(x, delta, A, B, C, form, skip)
    expected = sequential(x, delta, A, B, C) + (skip * delta)[..., None] * x
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(y.square().sum(), tensors) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
