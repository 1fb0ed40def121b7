"""The SSD of short sequences as one Triton kernel, forward and backward.

It computes what `mmm4rec.model.ssd.quadratic` computes, but the [T,T] matrices stay in the registers. One program takes
as many whole sequences as fit in a tile of 16, 32 or 64 rows, and all heads of one group: it reads B and C once,
computes their product once, and sums the gradient of that product over the heads. Thus no two programs add to the same
number. The gradients of A and skip are partial sums, one per program.

A NaN or an infinity in one sequence makes NaN of all sequences of its tile.

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
from mmm4rec.model.fused.launching import DTYPES, blocks_of, on_device_of

LONGEST = 64
"""The largest number of positions T."""
WIDEST = 128
"""The largest head width P and state S."""


def missing(x: Tensor, B: Tensor) -> str | None:
    """Why `short_ssd` cannot run on x [B,T,K,P] and B [B,T,G,S], and how to fix that; None if it can run."""
    if isinstance(_forward, triton.runtime.JITFunction) and x.device.type != "cuda":
        return f"the short SSD needs CUDA tensors and these are on {x.device}: train with device cuda"
    if x.dtype not in DTYPES:
        return f"the short SSD has no kernel for {x.dtype}: use float32 or bfloat16"
    if not 1 <= x.shape[1] <= LONGEST:
        return f"the short SSD takes 1 to {LONGEST} positions and these are {x.shape[1]}: use another form"
    for name, size in (("head_width", x.shape[3]), ("state", B.shape[3])):
        if not 1 <= size <= WIDEST:
            return f"the short SSD takes {name} up to {WIDEST} and this is {size}: use another form"
    return None


def short_ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, floor: float) -> Tensor:
    """y [B,T,K,P], contiguous and in the type of x; shapes as in `mmm4rec.model.ssd`, skip [K]. The log-decay of a step
    is at least `floor` (`mmm4rec.model.ssd.FORGOTTEN`).

    x, B and C have one type (float32, bfloat16 or float16) and are not copied if their last two dimensions are dense.
    Products of float32 round to TF32, except with torch's matmul precision "highest".

    Raises:
        ConfigError: the kernel cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(x, B):
        raise ConfigError(reason)
    return cast(Tensor, _ShortSSD.apply(x, delta, A, B, C, skip, floor))  # type: ignore[no-untyped-call]


class _ShortSSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, floor: float
    ) -> Tensor:
        x, B, C = (_dense(m) for m in (x, B, C))
        A, skip = A.contiguous(), skip.contiguous()
        ctx.save_for_backward(x, delta, A, B, C, skip)
        ctx.floor = floor
        return scan(x, delta, A, B, C, skip, floor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, A, B, C, skip = ctx.saved_tensors
        to_x, to_delta, to_B, to_C = to = [
            torch.empty(m.shape, dtype=m.dtype, device=m.device) for m in (x, delta, B, C)
        ]
        to_A, to_skip, _ = scan_backward(_dense(gradient), x, delta, A, B, C, skip, ctx.floor, *to)
        to_x, to_delta, to_B, to_C = to
        return to_x, to_delta, to_A.to(A.dtype), to_B, to_C, to_skip.to(skip.dtype), None


def scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    floor: float,
    bias: Tensor | None = None,
    a: Tensor | None = None,
) -> Tensor:
    """`short_ssd` of dense tensors, without a gradient. With a bias [K], the steps are softplus(delta * a + bias),
    where a [B,K,L] (L >= T; None: 1), and A is the logarithm of the negative A."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, sizes, options = _launch(x, B, floor, bias, a)
    with on_device_of(x):
        _forward[grid](
            *(x, delta, A, B, C, skip, *_steps(skip, bias, a), y),
            *(*_strides(x, delta, B, C), *_strides_of_scale(a), *sizes),
            **options,
        )
    return y


def scan_backward(
    gradient: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    floor: float,
    to_x: Tensor,
    to_delta: Tensor,
    to_B: Tensor,
    to_C: Tensor,
    bias: Tensor | None = None,
    a: Tensor | None = None,
    to_a: Tensor | None = None,
) -> Tensor:
    """Write the gradients of x, delta, B, C and a, which may be slices that are dense like the inputs; positions of
    to_a from T on are not written. The result [3,K] is that of A, skip and bias."""
    grid, sizes, options = _launch(x, B, floor, bias, a)
    sums = torch.empty(grid[0], 3, x.shape[2], dtype=torch.float32, device=x.device)
    with on_device_of(x):
        _backward[grid](
            *(x, delta, A, B, C, skip, *_steps(skip, bias, a)),
            *(gradient, to_x, to_delta, to_B, to_C, skip if to_a is None else to_a, sums),
            *(*_strides(x, delta, B, C), *_strides_of_scale(a), *gradient.stride()[:2]),
            *(*_strides(to_x, to_delta, to_B, to_C), *_strides_of_scale(to_a), *sizes),
            **options,
        )
    return sums.sum(0)


def _steps(unused: Tensor, bias: Tensor | None, a: Tensor | None) -> tuple[Tensor, Tensor]:
    return unused if bias is None else bias, unused if a is None else a


def _strides_of_scale(a: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if a is None else a.stride()


def _dense(m: Tensor) -> Tensor:
    return m if m[:1, :1].is_contiguous() else m.contiguous()


def _strides(x: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> tuple[int, ...]:
    return *x.stride()[:2], *delta.stride(), *B.stride()[:2], *C.stride()[:2]


def _launch(
    x: Tensor, B: Tensor, floor: float, bias: Tensor | None, a: Tensor | None
) -> tuple[tuple[int, int], tuple[Any, ...], dict[str, Any]]:
    """The grid, the sizes from the number of sequences on, and the options of both kernels."""
    batch, length, heads, width = x.shape
    groups, state = B.shape[2:]
    # tl.dot needs 16 rows and columns.
    rows, wide, states = (max(16, triton.next_power_of_2(size)) for size in (length, width, state))
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    grid = (blocks_of(batch, rows // length), groups)
    sizes = (batch, length, heads // groups, width, state, rows, wide, states, floor, precision)
    sizes = (*sizes, bias is not None, a is not None)
    # One stage: with loads of the next head under way, the widest tiles would not fit in the shared memory.
    return grid, sizes, {"num_warps": rows // 8, "num_stages": 1}


# Numbers of sequences and positions, and strides that depend on them or need no alignment: one kernel for all.
NUMBERS = [
    "N",
    "T",
    "delta_row",
    "delta_step",
    "a_row",
    "a_head",
    "a_step",
    "to_delta_row",
    "to_delta_step",
    "to_a_row",
    "to_a_head",
    "to_a_step",
]


@triton.jit
def _rows(T, N, ROWS: tl.constexpr):
    """Of each row of the tile: its sequence, its position, and whether it exists. A tile has ROWS // T sequences."""
    row = tl.arange(0, ROWS)
    sequence = tl.program_id(0) * (ROWS // T) + row // T
    return sequence.to(tl.int64), row % T, (row < ROWS // T * T) & (sequence < N)


@triton.jit
def _pairs(T, ROWS: tl.constexpr):
    """[ROWS,ROWS]: whether row j is of the same sequence as row i and not after it."""
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, ROWS)[None, :]
    return (i // T == j // T) & (j <= i)


@triton.jit
def _decay(log_decay, pair):
    """exp(the sum of log_decay over the positions after j up to i) at (i, j) of a pair, and 0 elsewhere."""
    total = tl.sum(tl.where(pair, log_decay[None, :], 0.0), axis=1)
    return tl.exp(tl.where(pair, total[:, None] - total[None, :], float("-inf")))


@triton.jit
def _softplus(v):
    """log(1 + exp(v)) with an error of rounding only: 2 atanh(s), s = e / (2 + e), e = exp(-|v|)."""
    e = tl.exp(-tl.abs(v))
    s = e / (2 + e)
    q = s * s
    series = 1 / 11 + q * (1 / 13 + q * (1 / 15 + q * (1 / 17)))
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * series))))
    return tl.where(v > 0, v, 0.0) + 2 * s * series


@triton.jit(do_not_specialize=NUMBERS)
def _forward(
    x, delta, A, B, C, skip, bias, a, y,
    x_row, x_step, delta_row, delta_step, delta_head, B_row, B_step, C_row, C_step,
    a_row, a_head, a_step,
    N, T, HEADS: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, STATES: tl.constexpr, FLOOR: tl.constexpr, PRECISION: tl.constexpr,
    RAW: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    group, heads = tl.program_id(1), tl.num_programs(1) * HEADS
    row, t, real = _rows(T, N, ROWS)
    pair = _pairs(T, ROWS)
    p, s = tl.arange(0, WIDE)[None, :], tl.arange(0, STATES)[None, :]
    real_p, real_s = real[:, None] & (p < P), real[:, None] & (s < S)
    B_tile = tl.load(B + (row * B_row + t * B_step + group * S)[:, None] + s, mask=real_s, other=0.0)
    C_tile = tl.load(C + (row * C_row + t * C_step + group * S)[:, None] + s, mask=real_s, other=0.0)
    similar = tl.dot(C_tile, tl.trans(B_tile), input_precision=PRECISION)
    diagonal = tl.arange(0, ROWS)[:, None] == tl.arange(0, ROWS)[None, :]
    for head in range(group * HEADS, group * HEADS + HEADS):
        step = tl.load(delta + row * delta_row + t * delta_step + head * delta_head, mask=real, other=0.0)
        step = step.to(tl.float32)
        rate = tl.load(A + head).to(tl.float32)
        if RAW:
            before, scale, rate = step, 1.0, -tl.exp(rate)
            if SCALED:
                scale = tl.load(a + row * a_row + head * a_head + t * a_step, mask=real, other=0.0).to(tl.float32)
            before_softplus = before * scale + tl.load(bias + head).to(tl.float32)
            step = tl.where(real, _softplus(before_softplus), 0.0)
        raw = step * rate
        # Not tl.maximum, which hides a NaN.
        weights = similar * _decay(tl.where(raw < FLOOR, FLOOR, raw), pair)
        weights += tl.where(diagonal, tl.load(skip + head).to(tl.float32), 0.0)
        weights *= step[None, :]
        x_tile = tl.load(x + (row * x_row + t * x_step + head * P)[:, None] + p, mask=real_p, other=0.0)
        out = tl.dot(weights.to(x_tile.dtype), x_tile, input_precision=PRECISION)
        y_at = y + ((row * T + t) * heads + head)[:, None] * P + p
        tl.store(y_at, out.to(y.dtype.element_ty), mask=real_p)


@triton.jit(do_not_specialize=NUMBERS)
def _backward(
    x, delta, A, B, C, skip, bias, a, gradient, to_x, to_delta, to_B, to_C, to_a, sums,
    x_row, x_step, delta_row, delta_step, delta_head, B_row, B_step, C_row, C_step,
    a_row, a_head, a_step, g_row, g_step,
    to_x_row, to_x_step, to_delta_row, to_delta_step, to_delta_head, to_B_row, to_B_step, to_C_row, to_C_step,
    to_a_row, to_a_head, to_a_step,
    N, T, HEADS: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, STATES: tl.constexpr, FLOOR: tl.constexpr, PRECISION: tl.constexpr,
    RAW: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    group, heads = tl.program_id(1), tl.num_programs(1) * HEADS
    row, t, real = _rows(T, N, ROWS)
    pair = _pairs(T, ROWS)
    p, s = tl.arange(0, WIDE)[None, :], tl.arange(0, STATES)[None, :]
    real_p, real_s = real[:, None] & (p < P), real[:, None] & (s < S)
    B_at = B + (row * B_row + t * B_step + group * S)[:, None] + s
    C_at = C + (row * C_row + t * C_step + group * S)[:, None] + s
    B_tile, C_tile = tl.load(B_at, mask=real_s, other=0.0), tl.load(C_at, mask=real_s, other=0.0)
    similar = tl.dot(C_tile, tl.trans(B_tile), input_precision=PRECISION)
    to_similar = tl.zeros((ROWS, ROWS), tl.float32)
    diagonal = tl.arange(0, ROWS)[:, None] == tl.arange(0, ROWS)[None, :]
    for head in range(group * HEADS, group * HEADS + HEADS):
        step = tl.load(delta + row * delta_row + t * delta_step + head * delta_head, mask=real, other=0.0)
        step = step.to(tl.float32)
        rate = tl.load(A + head).to(tl.float32)
        if RAW:
            before, scale, rate = step, 1.0, -tl.exp(rate)
            if SCALED:
                scale = tl.load(a + row * a_row + head * a_head + t * a_step, mask=real, other=0.0).to(tl.float32)
            before_softplus = before * scale + tl.load(bias + head).to(tl.float32)
            step = tl.where(real, _softplus(before_softplus), 0.0)
        direct = tl.load(skip + head).to(tl.float32)
        raw = step * rate
        decay = _decay(tl.where(raw < FLOOR, FLOOR, raw), pair)
        weights = similar * decay + tl.where(diagonal, direct, 0.0)  # without the steps
        x_tile = tl.load(x + (row * x_row + t * x_step + head * P)[:, None] + p, mask=real_p, other=0.0)
        g_tile = tl.load(gradient + (row * g_row + t * g_step + head * P)[:, None] + p, mask=real_p, other=0.0)

        back = tl.trans(weights * step[None, :]).to(g_tile.dtype)
        out = tl.dot(back, g_tile, input_precision=PRECISION)
        out_at = (row * to_x_row + t * to_x_step + head * P)[:, None] + p
        tl.store(to_x + out_at, out.to(to_x.dtype.element_ty), mask=real_p)

        to_weights = tl.dot(g_tile, tl.trans(x_tile), input_precision=PRECISION)
        to_similar += to_weights * decay * step[None, :]
        # Of total[i] - total[j] in `_decay`, then of the log-decay at a position: it is in the totals from there on.
        to_log = to_weights * similar * decay * step[None, :]
        to_total = tl.sum(to_log, axis=1) - tl.sum(to_log, axis=0)
        to_raw = tl.where(raw >= FLOOR, tl.sum(tl.where(pair, to_total[:, None], 0.0), axis=0), 0.0)
        to_diagonal = tl.sum(tl.where(diagonal, to_weights, 0.0), axis=0)
        to_step = tl.sum(tl.where(pair, to_weights * weights, 0.0), axis=0) + rate * to_raw
        sums_at = sums + tl.program_id(0) * 3 * heads + head
        to_rate = tl.sum(step * to_raw, axis=0)
        if RAW:
            to_step *= tl.sigmoid(before_softplus)
            to_rate *= rate
            tl.store(sums_at + 2 * heads, tl.sum(to_step, axis=0))
            if SCALED:
                a_at = to_a + row * to_a_row + head * to_a_head + t * to_a_step
                tl.store(a_at, (to_step * before).to(to_a.dtype.element_ty), mask=real)
                to_step *= scale
        step_at = to_delta + row * to_delta_row + t * to_delta_step + head * to_delta_head
        tl.store(step_at, to_step.to(to_delta.dtype.element_ty), mask=real)
        tl.store(sums_at, to_rate)
        tl.store(sums_at + heads, tl.sum(step * to_diagonal, axis=0))
    # Read again, from the cache: the registers are needed for the heads.
    B_tile, C_tile = tl.load(B_at, mask=real_s, other=0.0), tl.load(C_at, mask=real_s, other=0.0)
    out = tl.dot(to_similar.to(B_tile.dtype), B_tile, input_precision=PRECISION)
    to_C_at = to_C + (row * to_C_row + t * to_C_step + group * S)[:, None] + s
    tl.store(to_C_at, out.to(to_C.dtype.element_ty), mask=real_s)
    out = tl.dot(tl.trans(to_similar).to(C_tile.dtype), C_tile, input_precision=PRECISION)
    to_B_at = to_B + (row * to_B_row + t * to_B_step + group * S)[:, None] + s
    tl.store(to_B_at, out.to(to_B.dtype.element_ty), mask=real_s)
