"""`StepScale` of the time path as one Triton kernel, forward and backward; `fused.gaps` has the other two modules.

The gap signals are tiny, so their cost is the number of kernels. The result at one sequence and head is a function of
the L numbers of its signal: a program takes tiles of such rows of one head, and a convolution over the positions is the
product with a banded [L,L] matrix. The backward kernel computes the forward values again. The gradients of the weights
are partial sums, one per program, and one sum of torch adds them. A program takes one tile, because with a loop over
tiles the sums would not fit in the registers. No order of summation depends on the timing. All sums are float32.

Dropout draws Philox numbers from a seed on the device and the flat index of the element. The backward kernel draws the
same numbers again, so no mask is stored.

The module imports triton, which is an optional package: import this module only where it is used. It uses no
operation that autocast changes.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmm4rec.errors import ConfigError
from mmm4rec.model.fused.conv import WIDEST
from mmm4rec.model.fused.launching import DTYPES, blocks_of, on_device_of

LONGEST = 64
"""The largest number of positions L."""
MOST_HEADS = 32
MOST_ELEMENTS = 2**31 - 1
"""The index of an element, from which dropout draws, has 32 bits."""


def missing(D: Tensor, conv_width: int = 1) -> str | None:
    """Why these kernels cannot run on a signal D [N,K,L] or [N,L], and how to fix that; None if they can run."""
    if isinstance(_scale_forward, triton.runtime.JITFunction) and D.device.type != "cuda":
        return f"the fused time path needs CUDA tensors and these are on {D.device}: train with device cuda"
    if D.dtype not in DTYPES:
        return f"the fused time path has no kernel for {D.dtype}: use float32 or bfloat16"
    if not 1 <= D.shape[-1] <= LONGEST:
        return f"the fused time path takes 1 to {LONGEST} positions and these are {D.shape[-1]}: set length"
    if D.dim() == 3 and not 1 <= D.shape[1] <= MOST_HEADS:
        return f"the fused time path takes 1 to {MOST_HEADS} heads and these are {D.shape[1]}: set heads"
    if not 1 <= conv_width <= WIDEST:
        return f"the fused time path has convolutions 1 to {WIDEST} wide and these are {conv_width}: set conv_width"
    if D.numel() > MOST_ELEMENTS:
        return (
            f"the fused time path takes up to {MOST_ELEMENTS} elements and these are {D.numel()}: use smaller batches"
        )
    return None


def step_scale(
    D: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    conv_in: Tensor,
    conv_in_bias: Tensor,
    conv_out: Tensor,
    conv_out_bias: Tensor,
    p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """a [N,K,L] = `StepScale` of D [N,K,L], contiguous and in the type of D.

    D is not copied, whatever its strides. w_in, w_out [L,L], b_in, b_out [L], conv_in, conv_out [K,W] with W from 1 to
    8, their biases [K]. A share p of D in the input of the MLP is dropped; seed [1] int64 on the device, None: no
    dropout. Products round to TF32, except with torch's matmul precision "highest".

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(D, conv_in.shape[1]):
        raise ConfigError(reason)
    weights = (w_in, b_in, w_out, b_out, conv_in, conv_in_bias, conv_out, conv_out_bias)
    return cast(Tensor, _StepScale.apply(D, seed_of(p, seed), p, *weights))  # type: ignore[no-untyped-call]


def seed_of(p: float, seed: Tensor | None) -> Tensor | None:
    """The seed, or None without dropout."""
    return None if p == 0 else seed


class _StepScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, D: Tensor, seed: Tensor | None, p: float, *weights: Tensor) -> Tensor:
        weights = tuple(w.contiguous() for w in weights)
        ctx.save_for_backward(D, seed, *weights)
        ctx.p = p
        a = torch.empty(D.shape, dtype=D.dtype, device=D.device)
        blocks, sizes, options = _scale_launch(D, weights)
        with on_device_of(D):
            _scale_forward[(blocks, D.shape[1])](D, *weights, a, seed, p, len(D), *D.stride(), *sizes, **options)
        return a

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        D, seed, *weights = ctx.saved_tensors
        to_D = torch.empty(D.shape, dtype=D.dtype, device=D.device)
        blocks, sizes, options = _scale_launch(D, weights)
        heads = D.shape[1]
        total = sum(w.numel() for w in weights)
        sums = torch.empty(blocks * heads, total, dtype=torch.float32, device=D.device)
        with on_device_of(D):
            _scale_backward[(blocks, heads)](
                *(D, *weights, gradient, to_D, sums, seed, ctx.p, len(D)),
                *(*D.stride(), *gradient.stride(), total, *sizes, triton.next_power_of_2(heads)),
                **options,
            )
        return to_D, None, None, *gradients_of(weights, sums)


def _scale_launch(D: Tensor, weights: Sequence[Tensor]) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    """The number of tiles of one head, the sizes from K on, and the options of both kernels of `step_scale`."""
    _, heads, length = D.shape
    size = max(16, triton.next_power_of_2(length))  # tl.dot needs 16 rows and columns
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    # What fits in the registers. Without tensor cores, a thread holds whole rows and columns of the factors.
    rows = 64 if precision == "tf32" and size < 64 else 32
    sizes = (heads, length, weights[4].shape[1], size, rows, precision)
    return blocks_of(len(D), rows), sizes, {"num_warps": 4, "num_stages": 1}


def gradients_of(weights: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    """The sums [programs, numbers of all weights], added, as the gradients of the weights."""
    parts = torch.split(sums.sum(0), [w.numel() for w in weights])
    return [part.view(w.shape).to(w.dtype) for part, w in zip(parts, weights, strict=True)]


# One compiled kernel serves all numbers of rows N and all strides between rows: without `do_not_specialize`, 1 and the
# multiples of 16 would get their own. Columns beyond L are 0 in all inputs and gradients.


@triton.jit
def tile(x, row, head, i, real, x_row, x_head, x_step):
    """[ROWS,SIZE] of x [N,K,L], and 0 where nothing is real."""
    at = row.to(tl.int64) * x_row + head * x_head
    return tl.load(x + at[:, None] + i[None, :] * x_step, mask=real, other=0.0).to(tl.float32)


@triton.jit
def kept_share(seed, index, p):
    """The factor of dropout of the elements `index`: 0 or 1 / (1 - p)."""
    if seed is None:
        return 1.0
    else:
        return tl.where(tl.rand(tl.load(seed), index) >= p, 1 / (1 - p), 0.0)


@triton.jit
def _sloped_silu(x):
    """The derivative of SiLU."""
    gate = tl.sigmoid(x)
    return gate * (1 + x * (1 - gate))


@triton.jit
def _tanhshrink(x):
    """x - tanh(x). Near 0 the two all but cancel: there it is a series, exact to float32 up to 1/2."""
    square = x * x
    series = 1 / 3 - square * (
        2 / 15
        - square
        * (
            17 / 315
            - square * (62 / 2835 - square * (1382 / 155925 - square * (21844 / 6081075 - square * 0.00145583)))
        )
    )
    size = tl.abs(x)
    tanh = 1 - 2 / (tl.exp(2 * size) + 1)
    return tl.where(size < 0.5, x * square * series, tl.where(x < 0, tanh - size, size - tanh))


@triton.jit
def _linear(weight, L: tl.constexpr, SIZE: tl.constexpr):
    """The weight of the input at position i in the output at position j, at (i, j)."""
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    return tl.load(weight + j * L + i, mask=(i < L) & (j < L), other=0.0).to(tl.float32)


@triton.jit
def _band(taps, W: tl.constexpr, SIZE: tl.constexpr):
    """The same for a convolution."""
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    return tl.load(taps + (W - 1) - (j - i), mask=(i <= j) & (j - i < W), other=0.0).to(tl.float32)


@triton.jit
def _maps(w_in, w_out, conv_in, conv_out, L: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr):
    return _linear(w_in, L, SIZE), _linear(w_out, L, SIZE), _band(conv_in, W, SIZE), _band(conv_out, W, SIZE)


@triton.jit
def _forward_values(
    x, dropped, maps, b_in, b_out, conv_in_bias, conv_out_bias,
    L: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What `StepScale` computes on the way: the MLP's inner values, its output and s, then the two convolutions, both
    before SiLU. The result is the SiLU of the last."""
    i = tl.arange(0, SIZE)
    inner = tl.dot(dropped, maps[0], input_precision=PRECISION)
    inner += tl.load(b_in + i, mask=i < L, other=0.0).to(tl.float32)[None, :]
    outer = tl.dot(inner * tl.sigmoid(inner), maps[1], input_precision=PRECISION)
    outer += tl.load(b_out + i, mask=i < L, other=0.0).to(tl.float32)[None, :]
    s = _tanhshrink(outer)
    first = tl.dot(s * x, maps[2], input_precision=PRECISION) + tl.load(conv_in_bias).to(tl.float32)
    last = tl.dot(first * tl.sigmoid(first), maps[3], input_precision=PRECISION)
    last += tl.load(conv_out_bias).to(tl.float32)
    return inner, outer, s, first, last


@triton.jit(do_not_specialize=["N", "x_row", "x_head"])
def _scale_forward(
    D, w_in, b_in, w_out, b_out, conv_in, conv_in_bias, conv_out, conv_out_bias, a, seed, p, N, x_row, x_head, x_step,
    K: tl.constexpr, L: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head, i = tl.program_id(1), tl.arange(0, SIZE)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = (row < N)[:, None] & (i < L)[None, :]
    x = tile(D, row, head, i, real, x_row, x_head, x_step)
    index = ((row * K + head) * L)[:, None] + i[None, :]
    dropped = x * kept_share(seed, index, p)
    maps = _maps(w_in, w_out, conv_in + head * W, conv_out + head * W, L, W, SIZE)
    _, _, _, _, last = _forward_values(
        x, dropped, maps, b_in, b_out, conv_in_bias + head, conv_out_bias + head, L, SIZE, PRECISION
    )
    tl.store(a + index, (last * tl.sigmoid(last)).to(a.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["N", "x_row", "x_head", "g_row", "g_head"])
def _scale_backward(
    D, w_in, b_in, w_out, b_out, conv_in, conv_in_bias, conv_out, conv_out_bias, gradient, to_D, sums, seed, p, N,
    x_row, x_head, x_step, g_row, g_head, g_step, TOTAL: tl.constexpr,
    K: tl.constexpr, L: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    head, i = tl.program_id(1), tl.arange(0, SIZE)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = (row < N)[:, None] & (i < L)[None, :]
    index = ((row * K + head) * L)[:, None] + i[None, :]
    kept = kept_share(seed, index, p)
    x = tile(D, row, head, i, real, x_row, x_head, x_step)
    maps = _maps(w_in, w_out, conv_in + head * W, conv_out + head * W, L, W, SIZE)
    inner, outer, s, first, last = _forward_values(
        x, x * kept, maps, b_in, b_out, conv_in_bias + head, conv_out_bias + head, L, SIZE, PRECISION
    )
    w_in_sums = sums + (tl.program_id(0) * K + head).to(tl.int64) * TOTAL
    w_out_sums = w_in_sums + L * L + L
    conv_in_sums = w_out_sums + L * L + L
    conv_out_sums = conv_in_sums + K * W + K
    # g is the gradient of one value after the other, the last one first.
    g = tile(gradient, row, head, i, real, g_row, g_head, g_step) * _sloped_silu(last)
    _store_conv(conv_out_sums, first * tl.sigmoid(first), g, head, K, W, SIZE, HEADS, PRECISION)
    g = tl.dot(g, tl.trans(maps[3]), input_precision=PRECISION) * _sloped_silu(first)
    _store_conv(conv_in_sums, s * x, g, head, K, W, SIZE, HEADS, PRECISION)
    g = tl.dot(g, tl.trans(maps[2]), input_precision=PRECISION)
    to_x = g * s
    g *= x * (outer - s) * (outer - s)  # outer - s is tanh(outer)
    _store_linear(w_out_sums, inner * tl.sigmoid(inner), g, L, SIZE, PRECISION)
    g = tl.dot(g, tl.trans(maps[1]), input_precision=PRECISION) * _sloped_silu(inner)
    kept = kept_share(seed, index, p)  # once more: until here, the registers are needed for the values
    _store_linear(w_in_sums, x * kept, g, L, SIZE, PRECISION)
    to_x += tl.dot(g, tl.trans(maps[0]), input_precision=PRECISION) * kept
    tl.store(to_D + index, to_x.to(to_D.dtype.element_ty), mask=real)


@triton.jit
def _store_linear(at, x, g, L: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """The gradients of the weight and the bias of a map, from its input and the gradient of its output."""
    i = tl.arange(0, SIZE)
    weight = tl.dot(tl.trans(g), x, input_precision=PRECISION)
    tl.store(at + i[:, None] * L + i[None, :], weight, mask=(i < L)[:, None] & (i < L)[None, :])
    tl.store(at + L * L + i, tl.sum(g, axis=0), mask=i < L)


@triton.jit
def _store_conv(
    at, x, g, head,
    K: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, HEADS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same for a convolution; 0 for the other heads. A tap is on a diagonal of the band."""
    i, other = tl.arange(0, SIZE), tl.arange(0, HEADS)
    band = tl.dot(tl.trans(g), x, input_precision=PRECISION)
    for k in tl.static_range(W):
        tap = tl.sum(tl.sum(tl.where(i[:, None] - i[None, :] == k, band, 0.0), axis=1), axis=0)
        tl.store(at + other * W + (W - 1 - k), tl.where(other == head, tap, 0.0), mask=other < K)
    bias = tl.sum(tl.sum(g, axis=1), axis=0)
    tl.store(at + K * W + other, tl.where(other == head, bias, 0.0), mask=other < K)
