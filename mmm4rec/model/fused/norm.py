"""Dropout, sums and gates together with the norm after them, each as one Triton kernel, forward and backward.

`dropped_norm` is LayerNorm(dropout(x) + the sum of others), and `gated_norm` is RMSNorm(y * silu(z)). Here the cost of
these steps is the bytes that are read and written. Therefore a program has whole rows in its registers: it reads and
writes each number once, and the backward kernels compute the sums, the masks and the statistics again instead of
reading them. All sums are float32, and no order of summation depends on the timing.

The module imports triton, which is an optional package: import this module only where it is used. It uses no
operation that autocast changes.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmm4rec.errors import ConfigError
from mmm4rec.model.fused.launching import DTYPES, blocks_of, in_units, on_device_of

WIDEST = 1024
"""The largest width of a row: a program has whole rows in its registers."""
WARPS = 4
PARTIAL_SUMS = 512
"""At most so many programs sum the gradients of the weight and the bias. Each writes one partial sum."""


def missing(*tensors: Tensor) -> str | None:
    """Why the kernels cannot run on rows like these [..., H], and how to fix that; None if they can run."""
    for x in tensors:
        if isinstance(_norm_forward, triton.runtime.JITFunction) and x.device.type != "cuda":
            return f"the fused norms need CUDA tensors and these are on {x.device}: train with device cuda"
        if x.dtype not in DTYPES:
            return f"the fused norms have no kernel for {x.dtype}: use float32 or bfloat16"
        if not 1 <= x.shape[-1] <= WIDEST:
            return f"the fused norms take rows up to {WIDEST} wide and these are {x.shape[-1]}: use torch's norm"
        if x.shape != tensors[0].shape:
            return f"the fused norms add tensors of one shape and these have {[tuple(t.shape) for t in tensors]}"
    return None


def dropped_norm(
    x: Tensor,
    others: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    p: float,
    seed: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """LayerNorm(dropout(x) + the sum of `others`) * weight + bias over the last dimension.

    x [..., H], up to two others of the same shape, each in its own type: float32, bfloat16 or float16. They are not
    copied if their last stride is 1 and one stride leads from row to row. weight and bias [H]; or [M,H], where the
    rows are M equal parts and each part has its own. eps > 0. The result is contiguous and in `dtype`.

    Dropout makes a share p of the elements of x zero and multiplies the others by 1/(1-p). The mask is a function of
    `seed`, one int64 on the device of x, which must not change before the backward pass. If it is None, no element is
    dropped.

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason), there are more than two
            others, p is not in [0, 1), or the rows are not M equal parts.
    """
    if reason := missing(x, *others):
        raise ConfigError(reason)
    if len(others) > 2:
        raise ConfigError(f"the fused norm adds up to 2 tensors and these are {len(others)}: add them before")
    if not 0 <= p < 1:
        raise ConfigError(f"a dropout of {p} is not possible: choose one from 0 to less than 1")
    parts, rows = weight.numel() // x.shape[-1], math.prod(x.shape[:-1])
    if rows % parts:
        raise ConfigError(f"the fused norm has {parts} rows of weights and {rows} rows, which are not equal parts")
    if rows * _columns(x.shape[-1]) >= 2**34:
        raise ConfigError(f"the fused norm has no random numbers for {rows} rows: use smaller batches")
    seed = seed if p > 0 else None
    arguments = (x, weight, bias, eps, p, seed, dtype, *others)
    return cast(Tensor, _DroppedNorm.apply(*arguments))  # type: ignore[no-untyped-call]


class _DroppedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        p: float,
        seed: Tensor | None,
        dtype: torch.dtype,
        *others: Tensor,
    ) -> Tensor:
        flat, weight, bias = [as_rows(m) for m in (x, *others)], weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(weight, bias, seed, *flat)
        ctx.shape, ctx.eps, ctx.p = x.shape, eps, p
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        parts = weight.numel() // x.shape[-1]
        count = len(flat[0]) // parts
        rows, columns = _tile(x.shape[-1], 16)
        grid = (blocks_of(count, rows), parts)
        with on_device_of(x):
            _norm_forward[grid](
                *(*_three(flat), weight, bias, y, *_draw(flat[0], seed, p), count, *_strides(*_three(flat))),
                *(x.shape[-1], eps, len(others), seed is not None, rows, columns),
                num_warps=WARPS,
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, seed, *flat = ctx.saved_tensors
        x, *others = flat
        gradient = as_rows(gradient)
        parts = weight.numel() // x.shape[1]
        to_x = torch.empty(ctx.shape, dtype=x.dtype, device=x.device)
        # One tensor if the two gradients are equal.
        apart = bool(others) and (seed is not None or others[0].dtype != x.dtype)
        to_others = torch.empty(ctx.shape, dtype=others[0].dtype, device=x.device) if apart else to_x
        rows, columns = _tile(x.shape[1], 8)
        programs = max(1, min(blocks_of(len(x) // parts, rows), PARTIAL_SUMS // parts))
        sums = torch.empty(programs, 2, parts, x.shape[1], dtype=torch.float32, device=x.device)
        with on_device_of(x):
            _norm_backward[programs, parts](
                *(*_three(flat), weight, gradient, to_x, to_others, sums, *_draw(x, seed, ctx.p)),
                *(len(x) // parts, *_strides(*_three(flat), gradient), x.shape[1], ctx.eps),
                *(len(others), seed is not None, apart, rows, columns),
                num_warps=WARPS,
            )
        to_weight, to_bias = sums.sum(0)
        return (
            *(to_x, to_weight.view(weight.shape).to(weight.dtype), to_bias.view(bias.shape).to(bias.dtype)),
            *(None, None, None, None),
            *(to_others.to(m.dtype) for m in others),
        )


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm(y * silu(z)) * weight over the last dimension.

    y and z [..., W], each in float32, bfloat16 or float16. They are not copied if their last stride is 1 and one stride
    leads from row to row, as in a slice of a projection. weight [W], eps > 0. The result is contiguous and in `dtype`.

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(y, z):
        raise ConfigError(reason)
    return cast(Tensor, _GatedNorm.apply(y, z, weight, eps, dtype))  # type: ignore[no-untyped-call]


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        flat_y, flat_z, weight = as_rows(y), as_rows(z), weight.contiguous()
        ctx.save_for_backward(flat_y, flat_z, weight)
        ctx.shape, ctx.eps = y.shape, eps
        return gate(flat_y, flat_z, weight, eps, dtype).view(y.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        to_y, to_z = (torch.empty(m.shape, dtype=m.dtype, device=m.device) for m in (y, z))
        to_weight = gate_backward(as_rows(gradient), y, z, weight, ctx.eps, to_y, to_z)
        return to_y.view(ctx.shape), to_z.view(ctx.shape), to_weight, None, None


def gate(y: Tensor, z: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`gated_norm` of rows y and z [N,W] with dense columns, without a gradient."""
    out = torch.empty(y.shape, dtype=dtype, device=y.device)
    rows, columns = _tile(y.shape[1], 16)
    with on_device_of(y):
        _gate_forward[(blocks_of(len(y), rows),)](
            *(y, z, weight, out, len(y), *_strides(y, z), y.shape[1], eps, rows, columns), num_warps=WARPS
        )
    return out


def gate_backward(
    gradient: Tensor, y: Tensor, z: Tensor, weight: Tensor, eps: float, to_y: Tensor, to_z: Tensor
) -> Tensor:
    """Write the gradients of y and z [N,W] into `to_y` and `to_z` (slices with dense columns); that of the weight."""
    rows, columns = _tile(y.shape[1], 8)
    programs = min(blocks_of(len(y), rows), PARTIAL_SUMS)
    sums = torch.empty(programs, y.shape[1], dtype=torch.float32, device=y.device)
    with on_device_of(y):
        _gate_backward[(programs,)](
            *(y, z, weight, gradient, to_y, to_z, sums, len(y), *_strides(y, z, gradient, to_y, to_z)),
            *(y.shape[1], eps, rows, columns),
            num_warps=WARPS,
        )
    return sums.sum(0).to(weight.dtype)


def as_rows(x: Tensor) -> Tensor:
    """[..., H] -> [N,H] with dense columns; a view if one stride leads from row to row."""
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return flat if x.shape[-1] == 1 or flat.stride(1) == 1 else flat.contiguous()


def _three(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel does not read a tensor that repeats the first."""
    first, second, third = (*tensors, tensors[0], tensors[0])[:3]
    return first, second, third


def _draw(x: Tensor, seed: Tensor | None, p: float) -> tuple[Tensor, float, float]:
    return x if seed is None else seed, p, 1 / (1 - p)


def _strides(*rows: Tensor) -> tuple[int, ...]:
    """From row to row of each tensor, in units."""
    return in_units(*(m.stride(0) for m in rows))


def _columns(width: int) -> int:
    """The columns of a tile, a power of two: at least four, because random numbers come in fours."""
    return max(4, int(triton.next_power_of_2(width)))


def _tile(width: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile, with so many elements per thread."""
    columns = _columns(width)
    return min(32, 32 * WARPS * elements // columns), columns


# One compiled kernel serves all numbers of rows N: without `do_not_specialize`, 1 and the multiples of 16 would get
# their own. The same holds for the address of a seed, which may be one of many in a tensor. Rows and columns that do
# not exist are read as 0, and the gradient of an output that does not exist is 0.


@triton.jit
def _load(x, row, stride, c, real):
    return tl.load(x + (row * stride)[:, None] + c[None, :], mask=real, other=0.0).to(tl.float32)


@triton.jit
def _store(x, row, stride, c, real, value):
    tl.store(x + (row * stride)[:, None] + c[None, :], value.to(x.dtype.element_ty), mask=real)


@triton.jit
def _kept(seed, row, p, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS,COLUMNS]: `scale` where an element is kept and 0 elsewhere. One draw gives four random numbers."""
    four = row[:, None] * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)[None, :]
    one, two, three, last = tl.rand4x(tl.load(seed), four.to(tl.uint32))
    uniform = tl.join(tl.join(one, two), tl.join(three, last)).reshape(ROWS, COLUMNS)
    return tl.where(uniform >= p, scale, 0.0)


@triton.jit
def _normal(
    x, one, two, row, x_row, one_row, two_row, c, real, kept, H, eps, OTHERS: tl.constexpr, DROP: tl.constexpr
):  # fmt: skip
    """The normalised sums [ROWS,COLUMNS], 0 in columns that do not exist; 1 / their deviation [ROWS,1]."""
    total = _load(x, row, x_row, c, real)
    if DROP:
        total *= kept
    if OTHERS > 0:
        total += _load(one, row, one_row, c, real)
    if OTHERS > 1:
        total += _load(two, row, two_row, c, real)
    centred = tl.where((c < H)[None, :], total - tl.sum(total, axis=1, keep_dims=True) / H, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / H + eps)
    return centred * scale, scale


@triton.jit(do_not_specialize=["N"], do_not_specialize_on_alignment=["seed"])
def _norm_forward(
    x, one, two, weight, bias, y, seed, p, scale, N,
    x_row, one_row, two_row, UNIT: tl.constexpr,
    H: tl.constexpr, eps, OTHERS: tl.constexpr, DROP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    c = tl.arange(0, COLUMNS)
    real = (row < N)[:, None] & (c < H)[None, :]
    row += part.to(tl.int64) * N
    kept = _kept(seed, row, p, scale, ROWS, COLUMNS) if DROP else 1.0
    normal, _ = _normal(
        x, one, two, row, x_row * UNIT, one_row * UNIT, two_row * UNIT, c, real, kept, H, eps, OTHERS, DROP
    )
    w = tl.load(weight + part * H + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    b = tl.load(bias + part * H + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    _store(y, row, H, c, real, normal * w + b)


@triton.jit(do_not_specialize=["N"], do_not_specialize_on_alignment=["seed"])
def _norm_backward(
    x, one, two, weight, gradient, to_x, to_others, sums, seed, p, scale, N,
    x_row, one_row, two_row, g_row, UNIT: tl.constexpr,
    H: tl.constexpr, eps, OTHERS: tl.constexpr, DROP: tl.constexpr, APART: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    part, parts = tl.program_id(1), tl.num_programs(1)
    c = tl.arange(0, COLUMNS)
    w = tl.load(weight + part * H + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    to_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(N, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        real = (row < N)[:, None] & (c < H)[None, :]
        row += part.to(tl.int64) * N
        kept = _kept(seed, row, p, scale, ROWS, COLUMNS) if DROP else 1.0
        normal, inverse = _normal(
            x, one, two, row, x_row * UNIT, one_row * UNIT, two_row * UNIT, c, real, kept, H, eps, OTHERS, DROP
        )
        g = _load(gradient, row, g_row * UNIT, c, real)
        to_weight += g * normal
        to_bias += g
        g *= w
        along = tl.sum(g * normal, axis=1, keep_dims=True) / H
        to_sum = inverse * (g - tl.sum(g, axis=1, keep_dims=True) / H - normal * along)
        if APART:
            _store(to_others, row, H, c, real, to_sum)
        if DROP:
            to_sum *= kept
        _store(to_x, row, H, c, real, to_sum)
    sums_at = sums + (tl.program_id(0) * 2 * parts + part) * H + c
    tl.store(sums_at, tl.sum(to_weight, axis=0), mask=c < H)
    tl.store(sums_at + parts * H, tl.sum(to_bias, axis=0), mask=c < H)


@triton.jit(do_not_specialize=["N"])
def _gate_forward(
    y, z, weight, out, N, y_row, z_row, UNIT: tl.constexpr,
    W: tl.constexpr, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    c = tl.arange(0, COLUMNS)
    real = (row < N)[:, None] & (c < W)[None, :]
    z_tile = _load(z, row, z_row * UNIT, c, real)
    gated = _load(y, row, y_row * UNIT, c, real) * z_tile * tl.sigmoid(z_tile)
    scale = tl.rsqrt(tl.sum(gated * gated, axis=1, keep_dims=True) / W + eps)
    w = tl.load(weight + c, mask=c < W, other=0.0).to(tl.float32)[None, :]
    _store(out, row, W, c, real, gated * scale * w)


@triton.jit(do_not_specialize=["N"])
def _gate_backward(
    y, z, weight, gradient, to_y, to_z, sums, N,
    y_row, z_row, g_row, to_y_row, to_z_row, UNIT: tl.constexpr,
    W: tl.constexpr, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, COLUMNS)
    w = tl.load(weight + c, mask=c < W, other=0.0).to(tl.float32)[None, :]
    to_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(N, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        real = (row < N)[:, None] & (c < W)[None, :]
        y_tile, z_tile = _load(y, row, y_row * UNIT, c, real), _load(z, row, z_row * UNIT, c, real)
        g = _load(gradient, row, g_row * UNIT, c, real)
        open = tl.sigmoid(z_tile)
        gated = y_tile * z_tile * open
        scale = tl.rsqrt(tl.sum(gated * gated, axis=1, keep_dims=True) / W + eps)
        normal = gated * scale
        to_weight += g * normal
        g *= w
        to_gated = scale * (g - normal * (tl.sum(g * normal, axis=1, keep_dims=True) / W))
        _store(to_y, row, to_y_row * UNIT, c, real, to_gated * z_tile * open)
        _store(to_z, row, to_z_row * UNIT, c, real, to_gated * y_tile * open * (1 + z_tile * (1 - open)))
    tl.store(sums + tl.program_id(0) * W + c, tl.sum(to_weight, axis=0), mask=c < W)
