"""`GapGate` and `GapNorm` of the time path as Triton kernels, each one forward and one backward.

As in `fused.time`, the cost is the number of kernels: a program takes tiles of ROWS signals of L positions, computes in
float32, draws its own dropout, and computes the forward values again in the backward kernel. The gradients of the
weights are partial sums, one per program, and one sum of torch adds them.

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
from mmm4rec.model.fused.launching import blocks_of, on_device_of
from mmm4rec.model.fused.time import gradients_of, kept_share, missing, seed_of, tile

ROWS = 32
"""Signals per tile."""
PARTIAL_SUMS = 512
"""At most so many programs sum the gradients of the weights. Each writes one partial sum of all of them."""


def gap_gate(
    D: Tensor,
    a: Tensor,
    lengths: Tensor | None,
    gate_weight: Tensor,
    gate_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """D' [N,K,L] = `GapGate` of D and a [N,K,L], contiguous and in the type of D.

    lengths [N] int64, from 1 to L: the norm covers the first positions of each sequence and gives 0 elsewhere. None: a
    plain LayerNorm. `eps` is added to the variance. gate_weight, norm_weight, norm_bias [L], gate_bias [1]. A share p
    of D in the input of the gate is dropped, as in `step_scale`. D and a are not copied.

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(D):
        raise ConfigError(reason)
    weights = (gate_weight, gate_bias, norm_weight, norm_bias)
    lengths = None if lengths is None else lengths.contiguous()
    return cast(Tensor, _GapGate.apply(D, a, lengths, seed_of(p, seed), p, eps, *weights))  # type: ignore[no-untyped-call]


def gap_norm(
    x: Tensor,
    lengths: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """[N,L] = `GapNorm` of x [N,L] after dropout, contiguous and in the type of x; lengths as in `gap_gate`.

    x is data: it gets no gradient.

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason), or x needs a gradient.
    """
    if reason := missing(x):
        raise ConfigError(reason)
    if x.requires_grad:
        raise ConfigError("the fused norm of the gaps gives no gradient of the gaps: detach them")
    lengths = None if lengths is None else lengths.contiguous()
    return cast(Tensor, _GapNorm.apply(x, lengths, seed_of(p, seed), p, eps, weight, bias))  # type: ignore[no-untyped-call]


class _GapGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        D: Tensor,
        a: Tensor,
        lengths: Tensor | None,
        seed: Tensor | None,
        p: float,
        soft: float,
        *weights: Tensor,
    ) -> Tensor:
        weights = tuple(w.contiguous() for w in weights)
        ctx.save_for_backward(D, a, lengths, seed, *weights)
        ctx.p, ctx.soft = p, soft
        y = torch.empty(D.shape, dtype=D.dtype, device=D.device)
        rows, sizes = D.shape[0] * D.shape[1], D.shape[1:]
        with on_device_of(D):
            _gate_forward[(blocks_of(rows, ROWS),)](
                *(D, a, lengths, *weights, y, seed, p, soft, rows, *D.stride(), *a.stride()),
                *(*sizes, triton.next_power_of_2(sizes[1]), ROWS),
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        D, a, lengths, seed, *weights = ctx.saved_tensors
        to_D, to_a = (torch.empty(m.shape, dtype=m.dtype, device=m.device) for m in (D, a))
        rows, sizes = D.shape[0] * D.shape[1], D.shape[1:]
        programs = min(blocks_of(rows, ROWS), PARTIAL_SUMS)
        sums = torch.empty(programs, sum(w.numel() for w in weights), dtype=torch.float32, device=D.device)
        with on_device_of(D):
            _gate_backward[(programs,)](
                *(D, a, lengths, *weights, gradient, to_D, to_a, sums, seed, ctx.p, ctx.soft, rows),
                *(*D.stride(), *a.stride(), *gradient.stride()),
                *(*sizes, triton.next_power_of_2(sizes[1]), ROWS),
            )
        return to_D, to_a, None, None, None, None, *gradients_of(weights, sums)


class _GapNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lengths: Tensor | None, seed: Tensor | None, p: float, soft: float, *weights: Tensor
    ) -> Tensor:
        weights = tuple(w.contiguous() for w in weights)
        ctx.save_for_backward(x, lengths, seed, *weights)
        ctx.p, ctx.soft = p, soft
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        count, length = x.shape
        with on_device_of(x):
            _norm_forward[(blocks_of(count, ROWS),)](
                *(x, lengths, *weights, y, seed, p, soft, count, *x.stride()),
                *(length, triton.next_power_of_2(length), ROWS),
            )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, lengths, seed, *weights = ctx.saved_tensors
        count, length = x.shape
        programs = min(blocks_of(count, ROWS), PARTIAL_SUMS)
        sums = torch.empty(programs, 2 * length, dtype=torch.float32, device=x.device)
        with on_device_of(x):
            _norm_backward[(programs,)](
                *(x, lengths, gradient, sums, seed, ctx.p, ctx.soft, count, *x.stride(), *gradient.stride()),
                *(length, triton.next_power_of_2(length), ROWS),
            )
        return None, None, None, None, None, *gradients_of(weights, sums)


# One compiled kernel serves all numbers of signals N and all strides between them, as in `fused.time`.


@triton.jit
def _normed(x, lengths, sequence, i, real, soft, L: tl.constexpr):
    """Which positions count, how many there are, x normalised over them, and what it was multiplied with."""
    if lengths is None:
        counted, count = real, tl.full((x.shape[0],), L, tl.float32)[:, None]
    else:
        length = tl.load(lengths + sequence, mask=tl.max(real.to(tl.int32), axis=1) > 0, other=1)[:, None]
        counted, count = real & (i[None, :] < length), length.to(tl.float32)
    mean = tl.sum(tl.where(counted, x, 0.0), axis=1)[:, None] / count
    centred = tl.where(counted, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1)[:, None] / count + soft)
    return counted, count, centred * scale, scale


@triton.jit
def _column(weight, i, L: tl.constexpr):
    return tl.load(weight + i, mask=i < L, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _rows(block, N, L: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr):
    """The rows and columns of a tile, the flat index of its elements, and which of them exist."""
    row, i = block * ROWS + tl.arange(0, ROWS), tl.arange(0, SIZE)
    return row, i, (row * L)[:, None] + i[None, :], (row < N)[:, None] & (i < L)[None, :]


@triton.jit(do_not_specialize=["N", "x_row", "x_head", "a_row", "a_head"])
def _gate_forward(
    D, a, lengths, gate_weight, gate_bias, weight, bias, y, seed, p, soft, N,
    x_row, x_head, x_step, a_row, a_head, a_step,
    K: tl.constexpr, L: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, i, index, real = _rows(tl.program_id(0), N, L, SIZE, ROWS)
    x = tile(D, row // K, row % K, i, real, x_row, x_head, x_step)
    other = tile(a, row // K, row % K, i, real, a_row, a_head, a_step)
    logit = tl.sum(x * kept_share(seed, index, p) * _column(gate_weight, i, L), axis=1) + tl.load(gate_bias).to(
        tl.float32
    )
    gate = tl.sigmoid(logit)[:, None]
    counted, _, normed, _ = _normed(gate * x + (1 - gate) * other, lengths, row // K, i, real, soft, L)
    out = tl.where(counted, normed * _column(weight, i, L) + _column(bias, i, L), 0.0)
    tl.store(y + index, out.to(y.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["N", "x_row", "x_head", "a_row", "a_head", "g_row", "g_head"])
def _gate_backward(
    D, a, lengths, gate_weight, gate_bias, weight, bias, gradient, to_D, to_a, sums, seed, p, soft, N,
    x_row, x_head, x_step, a_row, a_head, a_step, g_row, g_head, g_step,
    K: tl.constexpr, L: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    to_gate_weight = tl.zeros((ROWS, SIZE), tl.float32)
    to_gate_bias = tl.zeros((ROWS,), tl.float32)
    to_weight = tl.zeros((ROWS, SIZE), tl.float32)
    to_bias = tl.zeros((ROWS, SIZE), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(N, ROWS), tl.num_programs(0)):
        row, i, index, real = _rows(block, N, L, SIZE, ROWS)
        x = tile(D, row // K, row % K, i, real, x_row, x_head, x_step)
        other = tile(a, row // K, row % K, i, real, a_row, a_head, a_step)
        g = tile(gradient, row // K, row % K, i, real, g_row, g_head, g_step)
        kept, gate_column = kept_share(seed, index, p), _column(gate_weight, i, L)
        logit = tl.sum(x * kept * gate_column, axis=1) + tl.load(gate_bias).to(tl.float32)
        gate = tl.sigmoid(logit)[:, None]
        counted, count, normed, scale = _normed(gate * x + (1 - gate) * other, lengths, row // K, i, real, soft, L)
        g = tl.where(counted, g, 0.0)
        to_weight += g * normed
        to_bias += g
        g *= _column(weight, i, L)
        mean = tl.sum(g, axis=1)[:, None] / count
        along = tl.sum(g * normed, axis=1)[:, None] / count
        g = tl.where(counted, scale * (g - mean - normed * along), 0.0)
        to_logit = tl.sum(g * (x - other), axis=1)[:, None] * gate * (1 - gate)
        to_gate_weight += to_logit * x * kept
        to_gate_bias += tl.sum(to_logit, axis=1)
        to_x = g * gate + to_logit * gate_column * kept
        tl.store(to_D + index, to_x.to(to_D.dtype.element_ty), mask=real)
        tl.store(to_a + index, (g * (1 - gate)).to(to_a.dtype.element_ty), mask=real)
    i = tl.arange(0, SIZE)
    at = sums + tl.program_id(0) * (3 * L + 1)
    tl.store(at + i, tl.sum(to_gate_weight, axis=0), mask=i < L)
    tl.store(at + L, tl.sum(to_gate_bias, axis=0))
    tl.store(at + L + 1 + i, tl.sum(to_weight, axis=0), mask=i < L)
    tl.store(at + 2 * L + 1 + i, tl.sum(to_bias, axis=0), mask=i < L)


@triton.jit(do_not_specialize=["N", "x_row"])
def _norm_forward(
    x, lengths, weight, bias, y, seed, p, soft, N, x_row, x_step,
    L: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, i, index, real = _rows(tl.program_id(0), N, L, SIZE, ROWS)
    dropped = tile(x, row, 0, i, real, x_row, 0, x_step) * kept_share(seed, index, p)
    counted, _, normed, _ = _normed(dropped, lengths, row, i, real, soft, L)
    out = tl.where(counted, normed * _column(weight, i, L) + _column(bias, i, L), 0.0)
    tl.store(y + index, out.to(y.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["N", "x_row", "g_row"])
def _norm_backward(
    x, lengths, gradient, sums, seed, p, soft, N, x_row, x_step, g_row, g_step,
    L: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    to_weight = tl.zeros((ROWS, SIZE), tl.float32)
    to_bias = tl.zeros((ROWS, SIZE), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(N, ROWS), tl.num_programs(0)):
        row, i, index, real = _rows(block, N, L, SIZE, ROWS)
        dropped = tile(x, row, 0, i, real, x_row, 0, x_step) * kept_share(seed, index, p)
        counted, _, normed, _ = _normed(dropped, lengths, row, i, real, soft, L)
        g = tl.where(counted, tile(gradient, row, 0, i, real, g_row, 0, g_step), 0.0)
        to_weight += g * normed
        to_bias += g
    i = tl.arange(0, SIZE)
    at = sums + tl.program_id(0) * 2 * L
    tl.store(at + i, tl.sum(to_weight, axis=0), mask=i < L)
    tl.store(at + L + i, tl.sum(to_bias, axis=0), mask=i < L)
