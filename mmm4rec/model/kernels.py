"""Compiled CUDA kernels, if they can be imported: mamba-ssm's Triton scan, causal-conv1d, and our own in Triton.

Only this module uses these packages. It imports them at the first use with CUDA tensors, never on a CPU.
`Kernel.missing` gives the reason if a kernel cannot run. Each kernel has a plain counterpart, and tests compare the
two: the recurrence `ssd.sequential` and `shifted_sum`. `ssd.choose` decides which form of the SSD runs.

Our own are in `fused`. They need nothing but triton, which torch's CUDA builds contain.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.config import ConvForm
from mmm4rec.errors import ConfigError

SCAN_CHUNK = 256
"""Positions per chunk of mamba-ssm's scan, the default of its models."""


@dataclass(frozen=True)
class Choice:
    """The chosen form of a computation and the reason for it."""

    form: str
    reason: str


@dataclass(frozen=True)
class Kernel:
    """A function of an optional package."""

    package: str
    module: str
    name: str

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the kernel cannot run on these tensors and how to fix that; None if it can run."""
        if device.type != "cuda":
            return f"{self.package} needs CUDA tensors and these are on {device}: train with device cuda"
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{self.package} has no kernel for {dtype}: use float32 or bfloat16"
        if isinstance(found := _imported(self.module, self.name), str):
            return f"{self.package} cannot be imported ({found}): pip install 'mmm4rec[cuda]'"
        return None

    def __call__(self, *arguments: Any, **named: Any) -> Tensor:
        """The result of the function.

        Raises:
            ConfigError: the package cannot be imported.
        """
        function = _imported(self.module, self.name)
        if isinstance(function, str):
            raise ConfigError(f"{self.package} cannot be imported ({function}): pip install 'mmm4rec[cuda]'")
        result: Tensor = function(*arguments, **named)
        return result


def short_ssd_missing(device: torch.device, dtype: torch.dtype, length: int, widest: int) -> str | None:
    """Why our kernel of the short SSD cannot run on `length` positions, with heads and states up to `widest`; None if
    it can run."""
    if (reason := _triton_missing(device, dtype)) is not None:
        return reason
    from mmm4rec.model.fused.ssd import LONGEST, WIDEST

    if length > LONGEST or widest > WIDEST:
        return f"our kernel takes up to {LONGEST} positions and heads and states up to {WIDEST}"
    return None


def short_ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, floor: float) -> Tensor:
    """The SSD of a short sequence by our kernel; shapes as in `mmm4rec.model.ssd`, skip [K]."""
    from mmm4rec.model.fused import ssd as fused_ssd

    return fused_ssd.short_ssd(x, delta, A, B.to(x.dtype), C.to(x.dtype), skip, floor)


def fused_norms_missing(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """Why our kernels of the norms (`fused.norm`) cannot run on rows of this width; None if they can."""
    if torch.compiler.is_compiling():
        return "torch.compile fuses the norms itself"
    if (reason := _triton_missing(device, dtype)) is not None:
        return reason
    from mmm4rec.model.fused.norm import WIDEST

    return None if width <= WIDEST else f"our kernels take rows up to {WIDEST} wide and these are {width}"


def fused_time_missing(D: Tensor, conv_width: int = 1) -> str | None:
    """Why our kernels of the time path (`fused.time`, `fused.gaps`) cannot run on a signal D [N,K,L] or
    [N,L]; None if they can."""
    if torch.compiler.is_compiling():
        return "torch.compile fuses the time path itself"
    if (reason := _triton_missing(D.device, D.dtype)) is not None:
        return reason
    from mmm4rec.model.fused import time as fused_time

    return fused_time.missing(D, conv_width)


def fused_block_missing(
    device: torch.device, dtype: torch.dtype, length: int, widest: int, inner: int, conv: torch.nn.Conv1d
) -> str | None:
    """Why `fused.block` cannot run on `length` positions, heads and states up to `widest`, rows of width
    `inner` and this convolution; None if it can run."""
    return (
        fused_norms_missing(device, dtype, inner)
        or short_ssd_missing(device, dtype, length, widest)
        or _own_conv_missing(device, dtype, conv.kernel_size[0])
    )


def _triton_missing(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why our kernels cannot run on these tensors; None if they can run."""
    if device.type != "cuda":
        return f"our kernels need CUDA tensors and these are on {device}: train with device cuda"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"our kernels cannot compute in {dtype}: use float32 or bfloat16"
    return _triton_import()


@functools.cache
def _triton_import() -> str | None:
    """Why triton cannot be imported; None if it can."""
    try:
        importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError) as error:
        return f"triton cannot be imported ({type(error).__name__}: {error}): pip install triton"
    return None


SCAN = Kernel("mamba-ssm", "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
CONV = Kernel("causal-conv1d", "causal_conv1d", "causal_conv1d_fn")


def chunk_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The SSD of mamba-ssm; shapes as in `mmm4rec.model.ssd`.

    It is called without D, because its skip connection uses x and ours uses delta * x. delta is final: no bias and no
    softplus. In float32 its products round to TF32.
    """
    # Without autocast: the kernel needs x, B and C in the same type, and sums the decays in float32 itself.
    with torch.autocast(x.device.type, enabled=False):
        return SCAN(x, delta.float(), A.float(), B.to(x.dtype), C.to(x.dtype), SCAN_CHUNK, dt_softplus=False)


def choose_conv(
    channels: int,
    width: int,
    override: ConvForm = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Choice:
    """The form of `causal_conv` for this number of channels and this kernel width.

    Raises:
        ConfigError: the form is unknown or cannot run here.
    """
    if override not in get_args(ConvForm):
        raise ConfigError(f"conv_form {override!r} is unknown: choose one of {', '.join(get_args(ConvForm))}")
    if override in ("plain", "torch"):
        return Choice(override, f"conv_form is set to {override}")
    device = torch.device(device)
    missing = {"triton": _own_conv_missing(device, dtype, width), "fused": _fused_missing(device, dtype, width)}
    if override != "auto":
        if (reason := missing[override]) is not None:
            raise ConfigError(f"conv_form is {override!r}, but {reason}, or set conv_form to auto")
        return Choice(override, f"conv_form is set to {override}")
    if missing["triton"] is None:
        return Choice("triton", "our kernel runs here: convolution and SiLU in one pass over the bytes")
    if missing["fused"] is None:
        return Choice("fused", "causal-conv1d runs here: one kernel for convolution and SiLU")
    return Choice("torch", missing["triton"] if device.type != "cuda" else f"{missing['triton']}; {missing['fused']}")


def _own_conv_missing(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    if (reason := _triton_missing(device, dtype)) is not None:
        return reason
    from mmm4rec.model.fused.conv import WIDEST

    return None if width <= WIDEST else f"our kernel is up to {WIDEST} wide and this convolution {width}"


def _fused_missing(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    if not 2 <= width <= 4:
        return f"causal-conv1d is 2 to 4 wide and this convolution {width}: set conv_width"
    return CONV.missing(device, dtype)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, silu: bool = False, form: ConvForm = "auto") -> Tensor:
    """y[b,t,c] = bias[c] + sum over w of weight[c,0,w] x[b,t-W+1+w,c], where positions before the first are 0;
    then SiLU if `silu`.

    x [B,T,C], weight [C,1,W] as in `nn.Conv1d`, bias [C], result [B,T,C].
    """
    chosen = _conv_form(weight, x) if form == "auto" else choose_conv(*_sizes(weight), form, x.device, x.dtype).form
    if chosen == "triton":
        return _own_conv(x, weight, bias, silu)
    if chosen == "fused":
        return _fused(x, weight, bias, silu)
    y = shifted_sum(x, weight, bias) if chosen == "plain" else _as_picture(x, weight, bias)
    return F.silu(y) if silu else y


def shifted_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The reference for `causal_conv`: the sum as written, with one shifted copy of x per tap."""
    length, taps = x.shape[1], weight.shape[2]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    return bias + torch.stack([padded[:, w : w + length] * weight[:, 0, w] for w in range(taps)]).sum(0)


def _as_picture(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # As an image of height 1 with channels last: three times faster than conv1d on a CPU.
    padded = F.pad(x, (0, 0, weight.shape[2] - 1, 0)).transpose(1, 2).unsqueeze(2)
    return F.conv2d(padded, weight.unsqueeze(2), bias, groups=len(weight)).squeeze(2).transpose(1, 2)


def _own_conv(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    from mmm4rec.model.fused.conv import conv_silu

    return conv_silu(x, weight[:, 0], bias, silu)


def _fused(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = x.transpose(1, 2)
        # The kernel reads eight channels at once. For other strides it uses its channels-first layout.
        if rows.stride(0) % 8 or rows.stride(2) % 8 or rows.stride(1) != 1:
            rows = rows.contiguous()
        y = CONV(rows, weight[:, 0].float(), bias.float(), activation="silu" if silu else None)
        return y.transpose(1, 2)


def _sizes(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight.shape[2]


def _conv_form(weight: Tensor, x: Tensor) -> str:
    """`choose_conv` without the reason. Under torch.compile it is the plain convolution, which Inductor fuses with its
    neighbours. An external kernel would break the graph at every block."""
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return "torch"
    if _own_conv_missing(x.device, x.dtype, weight.shape[2]) is None:
        return "triton"
    return "torch" if _fused_missing(x.device, x.dtype, weight.shape[2]) else "fused"


@functools.cache
def _imported(module: str, name: str) -> Callable[..., Any] | str:
    """The function, or the reason why it cannot be imported."""
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    # torch.compile must not trace into the kernel. `torch.compiler` is used only here: its import takes seconds.
    disabled: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return disabled
