"""The causal depthwise convolution and SiLU as one Triton kernel, forward and backward.

It computes what `mmm4rec.model.kernels.shifted_sum` and `F.silu` compute. Here the cost of this step is the bytes that
are read and written, so the forward kernel reads x once and writes y once, and the backward kernel reads x and the
gradient once and writes the gradient of x once. Sums are float32, and no order of summation depends on the timing.

The module imports triton, which is an optional package: import this module only where it is used. It uses no
operation that autocast changes.
"""

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmm4rec.errors import ConfigError
from mmm4rec.model.fused.launching import DTYPES, blocks_of, in_units, on_device_of

WIDEST = 8
"""The largest width W: a thread holds W inputs, W weights and W sums in registers."""
CHANNELS = 128
"""Channels per program. 32 or 16 threads with 16 bytes each read them in one piece."""
THREADS = 128
PARTIAL_SUMS = 512
"""At most so many programs per block of channels sum the gradient of the weights. Each writes one partial sum."""


def missing(x: Tensor, weight: Tensor) -> str | None:
    """Why `conv_silu` cannot run on x [B,T,C] and weight [C,W], and how to fix that; None if it can run."""
    if isinstance(_forward, triton.runtime.JITFunction) and x.device.type != "cuda":
        return f"the fused convolution needs CUDA tensors and these are on {x.device}: train with device cuda"
    if x.dtype not in DTYPES:
        return f"the fused convolution has no kernel for {x.dtype}: use float32 or bfloat16"
    if not 1 <= weight.shape[1] <= WIDEST:
        return f"the fused convolution is 1 to {WIDEST} wide and this one {weight.shape[1]}: set conv_width"
    return None


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """y[b,t,c] = bias[c] + sum over w of weight[c,w] x[b,t-W+1+w,c], where positions before the first are 0;
    then SiLU if `silu`.

    x [B,T,C] in float32, bfloat16 or float16; it is not copied if its last stride is 1. weight [C,W] with W from 1 to
    8, bias [C]. The result [B,T,C] is contiguous and in the type of x.

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(x, weight):
        raise ConfigError(reason)
    return cast(Tensor, _ConvSiLU.apply(x, weight, bias, silu))  # type: ignore[no-untyped-call]


class _ConvSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
        x, weight, bias = _last_dense(x), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.silu = silu
        return convolve(x, weight, bias, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias = ctx.saved_tensors
        to_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return to_x, *convolve_backward(_last_dense(gradient), x, weight, bias, ctx.silu, to_x), None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """`conv_silu` of tensors with dense channels, without a gradient."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    # Each thread reads 16 bytes.
    rows, channels = _tile(x, THREADS * 16 // x.element_size())
    grid = (blocks_of(len(x), rows), blocks_of(x.shape[2], channels))
    with on_device_of(x):
        _forward[grid](
            *(x, weight, bias, y, *x.shape, *_strides(x)),
            *(weight.shape[1], silu, rows, channels),
            num_warps=THREADS // 32,
        )
    return y


def convolve_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, to_x: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of x into `to_x`, which may be a slice with dense channels; those of weight and bias."""
    width = weight.shape[1]
    # Four elements per thread in all types: with more, the sums of the weights would not fit in the registers.
    rows, channels = _tile(x, THREADS * 4)
    programs = min(blocks_of(len(x), rows), PARTIAL_SUMS)
    sums = torch.empty(programs, width + 1, x.shape[2], dtype=torch.float32, device=x.device)
    grid = (programs, blocks_of(x.shape[2], channels))
    with on_device_of(x):
        _backward[grid](
            *(
                x,
                weight,
                bias,
                gradient,
                to_x,
                sums,
                *x.shape,
                *_strides(x),
                *_strides(gradient),
                *_strides(to_x),
            ),
            *(width, silu, rows, channels),
            num_warps=THREADS // 32,
        )
    total = sums.sum(0)
    return total[:width].T.to(weight.dtype), total[width].to(bias.dtype)


def _last_dense(x: Tensor) -> Tensor:
    return x if x.shape[2] == 1 or x.stride(2) == 1 else x.contiguous()


def _tile(x: Tensor, elements: int) -> tuple[int, int]:
    """Sequences and channels per program, powers of two."""
    channels = min(CHANNELS, triton.next_power_of_2(x.shape[2]))
    return min(elements // channels, triton.next_power_of_2(max(1, len(x)))), channels


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of the first two dimensions, in units."""
    return in_units(*x.stride()[:2])


# One compiled kernel serves all numbers of sequences B and positions T: without `do_not_specialize`, 1 and the
# multiples of 16 would get their own. In the kernels, tap k is the weight of the input k positions back. Tuples hold
# one tile [ROWS,CHANNELS] per tap; their loops are unrolled.


@triton.jit
def _taps(weight, c, C, W: tl.constexpr):
    taps = ()
    for k in tl.static_range(W):
        taps = taps + (tl.load(weight + c * W + (W - 1 - k), mask=c < C, other=0.0).to(tl.float32)[None, :],)
    return taps


@triton.jit
def _zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (tl.zeros((ROWS, CHANNELS), tl.float32),)
    return zeros


@triton.jit
def _convolved(seen, taps, offset, W: tl.constexpr):
    y = offset + taps[0] * seen[0]
    for k in tl.static_range(1, W):
        y += taps[k] * seen[k]
    return y


@triton.jit(do_not_specialize=["B", "T"])
def _forward(
    x, weight, bias, y, B, T, C,
    x_row, x_step, X_UNIT: tl.constexpr,
    W: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    taps = _taps(weight, c, C, W)
    offset = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    real = (row < B) & (c < C)[None, :]
    x_at = x + row * (x_row * X_UNIT) + c[None, :]
    y_at = y + row * T * C + c[None, :]
    past = _zeros(W - 1, ROWS, CHANNELS)
    for t in range(T):
        now = tl.load(x_at + t * (x_step * X_UNIT), mask=real, other=0.0).to(tl.float32)
        seen = (now,) + past
        out = _convolved(seen, taps, offset, W)
        if SILU:
            out = out * tl.sigmoid(out)
        tl.store(y_at + t * C, out.to(y.dtype.element_ty), mask=real)
        past = seen[: W - 1]


@triton.jit(do_not_specialize=["B", "T"])
def _backward(
    x, weight, bias, gradient, to_x, sums, B, T, C,
    x_row, x_step, X_UNIT: tl.constexpr, g_row, g_step, G_UNIT: tl.constexpr,
    to_row, to_step, TO_UNIT: tl.constexpr,
    W: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    taps = _taps(weight, c, C, W)
    offset = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    to_move = to_step * TO_UNIT
    to_taps = _zeros(W, ROWS, CHANNELS)
    to_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(B, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        real = (row < B) & (c < C)[None, :]
        x_at = x + row * (x_row * X_UNIT) + c[None, :]
        g_at = gradient + row * (g_row * G_UNIT) + c[None, :]
        to_x_at = to_x + row * (to_row * TO_UNIT) + c[None, :]
        past = _zeros(W - 1, ROWS, CHANNELS)
        # Of the gradient of x at the last W - 1 positions, the part from the outputs so far; the latest first.
        pending = _zeros(W - 1, ROWS, CHANNELS)
        for t in range(T):
            now = tl.load(x_at + t * (x_step * X_UNIT), mask=real, other=0.0).to(tl.float32)
            g = tl.load(g_at + t * (g_step * G_UNIT), mask=real, other=0.0).to(tl.float32)
            seen = (now,) + past
            if SILU:
                out = _convolved(seen, taps, offset, W)
                gate = tl.sigmoid(out)
                g = g * gate * (1 + out * (1 - gate))
            more = (to_taps[0] + g * now,)
            parts = (g * taps[0],)
            for k in tl.static_range(1, W):
                more = more + (to_taps[k] + g * seen[k],)
                parts = parts + (pending[k - 1] + g * taps[k],)
            to_taps = more
            to_bias += g
            if t >= W - 1:
                tl.store(
                    to_x_at + (t - (W - 1)) * (to_step * TO_UNIT), parts[W - 1].to(to_x.dtype.element_ty), mask=real
                )
            past = seen[: W - 1]
            pending = parts[: W - 1]
        for k in tl.static_range(1, W):
            if k <= T:
                tl.store(to_x_at + (T - k) * to_move, pending[k - 1].to(to_x.dtype.element_ty), mask=real)
    sums_at = sums + tl.program_id(0) * (W + 1) * C + c
    for k in tl.static_range(W):
        tl.store(sums_at + (W - 1 - k) * C, tl.sum(to_taps[k], axis=0), mask=c < C)
    tl.store(sums_at + W * C, tl.sum(to_bias, axis=0), mask=c < C)
