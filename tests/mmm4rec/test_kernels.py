"""The causal convolution in all its forms; what stands in for a compiled kernel that cannot run here; the
kernels themselves where there is a GPU; bfloat16 training beside float32."""

import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmm4rec.checkpoint import load_model
from mmm4rec.config import ConvForm, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ConfigError
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.model import kernels
from mmm4rec.model.kernels import CONV, SCAN, causal_conv, choose_conv, chunk_scan, shifted_sum
from mmm4rec.model.ssd import choose, sequential
from mmm4rec.training.fit import fit

CUDA = torch.device("cuda")
CONV_FORMS: tuple[ConvForm, ...] = ("plain", "torch", "fused", "triton")


def missing(kernel: kernels.Kernel) -> str:
    """Why `kernel` cannot run here, or an empty string."""
    if not torch.cuda.is_available():
        return f"no GPU: {kernel.package} needs one"
    return kernel.missing(CUDA, torch.float32) or ""


def conv_inputs(rows: int, length: int, channels: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(rows + length + channels)
    shapes = ((rows, length, channels), (channels, 1, width), (channels,))
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def test_the_reference_convolution_by_hand() -> None:
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]])
    weight = torch.tensor([[[3.0, 1.0]], [[0.0, 1.0]]])  # 3 times the previous + this; this
    expected = [[[1.5, 10], [5.5, 20], [10.5, 40]]]
    assert shifted_sum(x, weight, torch.tensor([0.5, 0])).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_the_convolution_is_the_reference(rows: int, length: int, channels: int, width: int, silu: bool) -> None:
    tensors = conv_inputs(rows, length, channels, width)
    expected = causal_conv(*tensors, silu=silu, form="plain")
    found = causal_conv(*tensors, silu=silu)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), tensors),
        torch.autograd.grad((expected * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_convolution_says_what_it_chose() -> None:
    assert choose_conv(512, 4).form == "torch"
    assert "our kernels need CUDA tensors" in choose_conv(512, 4).reason
    assert choose_conv(512, 4, "plain").reason == "conv_form is set to plain"
    with pytest.raises(ConfigError, match=r"'fused', but causal-conv1d needs CUDA.*or set conv_form to auto"):
        causal_conv(*conv_inputs(1, 2, 8, 4), form="fused")
    with pytest.raises(ConfigError, match=r"'fast' is unknown.*plain"):
        causal_conv(*conv_inputs(1, 2, 8, 4), form="fast")  # type: ignore[arg-type]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A factory of stand-ins for the compiled packages: package(module, name, function)."""

    def install(module: str, name: str, function: Callable[..., Tensor]) -> None:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            part = types.ModuleType(".".join(parts[:end]))
            part.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, part.__name__, part)
        setattr(sys.modules[module], name, function)

    kernels._imported.cache_clear()
    # Without our own kernels, which would be chosen before the packages (test_triton.py tests that).
    monkeypatch.setattr(kernels, "_triton_import", lambda: "triton cannot be imported")
    yield install
    kernels._imported.cache_clear()


def test_a_package_that_is_absent_or_broken_is_named_and_the_plain_forms_run(
    monkeypatch: pytest.MonkeyPatch, package: Callable[..., None]
) -> None:
    monkeypatch.setitem(sys.modules, SCAN.module, None)  # importing it fails
    assert choose(4096, device="cuda").form == "chunked"
    assert "mamba-ssm cannot be imported" in choose(4096, device="cuda").reason
    with pytest.raises(ConfigError, match=r"mamba-ssm cannot be imported .*pip install 'mmm4rec\[cuda\]'"):
        choose(4096, "triton", "cuda")
    package("causal_conv1d", "another_name", shifted_sum)
    assert choose_conv(512, 4, device="cuda").form == "torch"
    assert "triton cannot be imported; causal-conv1d cannot" in choose_conv(512, 4, device="cuda").reason
    assert "AttributeError" in choose_conv(512, 4, device="cuda").reason


def test_where_the_packages_are_they_are_chosen(package: Callable[..., None]) -> None:
    package(SCAN.module, SCAN.name, sequential)
    package(CONV.module, CONV.name, shifted_sum)
    assert choose(4096, device="cuda").form == "triton"
    assert choose(20, device="cuda").form == "quadratic"
    assert choose(20, "triton", "cuda").form == "triton"
    assert choose(4096, device="cuda", dtype=torch.float64).form == "chunked"
    assert choose(4096).form == "chunked", "on a CPU they are not even looked for"
    assert choose_conv(512, 4, device="cuda").form == "fused"
    assert "2 to 4 wide" in choose_conv(512, 5, device="cuda").reason
    with pytest.raises(ConfigError, match="'triton', but triton cannot be imported"):
        choose_conv(512, 4, "triton", device="cuda")
    with pytest.raises(ConfigError, match="'short', but triton cannot be imported"):
        choose(20, "short", "cuda")


def test_the_scan_is_called_as_its_interface_asks(package: Callable[..., None]) -> None:
    """mamba-ssm's kernel cannot run on a CPU: the recurrence stands in, under the kernel's parameters."""

    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
        assert D is None, "its skip takes x where ours takes delta * x"
        assert dt_bias is None
        assert dt_softplus is False
        assert chunk_size & (chunk_size - 1) == 0
        assert dt.dtype == A.dtype == torch.float32
        assert x.dtype == B.dtype == C.dtype
        return sequential(x, dt, A, B, C)

    package(SCAN.module, SCAN.name, mamba_chunk_scan_combined)
    x, delta = torch.randn(2, 5, 4, 3).bfloat16(), torch.rand(2, 5, 4).bfloat16()
    A, B, C = -torch.rand(4), torch.randn(2, 5, 2, 6), torch.randn(2, 5, 2, 6)
    found = chunk_scan(x, delta, A, B, C)
    torch.testing.assert_close(found, sequential(x, delta, A, B.bfloat16(), C.bfloat16()))


@pytest.mark.parametrize("channels", [8, 7])
def test_the_fused_convolution_gets_the_strides_it_can_read(channels: int, package: Callable[..., None]) -> None:
    def causal_conv1d_fn(x, weight, bias=None, activation=None):
        if x.stride(1) == 1:
            assert x.stride(0) % 8 == 0
            assert x.stride(2) % 8 == 0
        else:
            assert x.stride(2) == 1
        assert weight.shape == (x.shape[1], 4)
        y = shifted_sum(x.transpose(1, 2), weight[:, None], bias).transpose(1, 2)
        return torch.nn.functional.silu(y) if activation == "silu" else y

    package(CONV.module, CONV.name, causal_conv1d_fn)
    x, weight, bias = conv_inputs(2, 5, channels, 4, torch.float32)
    # As the model has it: a slice of a wider projection.
    x = torch.cat([torch.ones(2, 5, 8), x, torch.ones(2, 5, channels)], dim=-1)[..., 8 : 8 + channels]
    for silu in (False, True):
        expected = causal_conv(x, weight, bias, silu, form="plain")
        torch.testing.assert_close(kernels._fused(x, weight, bias, silu), expected)


@pytest.mark.skipif(bool(missing(SCAN)), reason=missing(SCAN))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 700), st.sampled_from([(4, 1), (4, 4)]), st.sampled_from([1.0, 200.0]))
def test_on_a_gpu_the_triton_form_is_the_recurrence(
    dtype: torch.dtype, length: int, heads: tuple[int, int], steps: float
) -> None:
    random = torch.Generator().manual_seed(length)
    shapes = ((2, length, heads[0], 32), (2, length, heads[0]), (heads[0],)) + ((2, length, heads[1], 16),) * 2
    raw = [torch.randn(shape, generator=random) for shape in shapes]
    raw[1], raw[2] = torch.nn.functional.softplus(steps * raw[1]), -raw[2].exp()
    tensors = [m.to(CUDA, torch.float32 if i in (1, 2) else dtype).requires_grad_() for i, m in enumerate(raw)]
    doubles = [m.detach().double().requires_grad_() for m in tensors]
    found, expected = chunk_scan(*tensors), sequential(*doubles)
    assert found.dtype == dtype
    weights = torch.randn(shapes[0], generator=random).to(CUDA)
    ours = torch.autograd.grad((found * weights.to(dtype)).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), doubles)
    # Its products round to TF32 at best. The gradient of A, a sum that may cancel, need only be finite here.
    tolerance = 2e-2 if dtype == torch.float32 else 6e-2
    for place, (one, other) in enumerate(zip((found, *ours), (expected, *theirs), strict=True)):
        assert one.isfinite().all()
        if place != 3:
            assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-3)


@pytest.mark.skipif(bool(missing(CONV)), reason=missing(CONV))
@pytest.mark.parametrize("channels", [8, 7])
@pytest.mark.parametrize("length", [1, 5, 300])
@pytest.mark.parametrize("silu", [False, True])
def test_on_a_gpu_the_fused_convolution_is_the_reference(channels: int, length: int, silu: bool) -> None:
    tensors = [m.detach().to(CUDA).requires_grad_() for m in conv_inputs(3, length, channels, 4, torch.float32)]
    results = [causal_conv(*tensors, silu=silu, form=form) for form in CONV_FORMS]
    gradients = [torch.autograd.grad(result.square().sum(), tensors) for result in results]
    for place in range(1, len(CONV_FORMS)):
        torch.testing.assert_close(results[place], results[0], rtol=1e-4, atol=1e-4)
        for one, other in zip(gradients[place], gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_training_in_bfloat16_reaches_the_metrics_of_float32(
    make_domain: Callable[..., DomainData],
    small: Callable[..., ModelConfig],
    quick: Callable[..., TrainConfig],
    tmp_path: Path,
) -> None:
    """Within two standard errors of a share over the test users, and both have learned."""
    domain = make_domain(users=120, items=30, absent_images=(), seed=1)
    config = small(dropout_embedding=0.0, dropout_hidden=0.0, dropout_time=0.0)
    found, weights = [], []
    for precision in ("32-true", "bf16-mixed"):
        out = tmp_path / precision
        out.mkdir()
        fit(domain, config, quick(epochs=6, batch_size=128, learning_rate=2e-2, precision=precision), out)
        model = load_model(out, domain)
        found.append(evaluate(model, domain, "test"))
        weights.append(model.layers[0].branches.inputs.weight)
    assert not torch.equal(*weights), "bfloat16 was not in use"
    single, half = (metrics.value("HR@10") for metrics in found)
    assert single > 2 * 10 / 30
    noise = math.sqrt(single * (1 - single) / 120)
    assert abs(half - single) <= 2 * noise
    assert abs(found[1].value("NDCG@10") - found[0].value("NDCG@10")) <= 2 * noise
