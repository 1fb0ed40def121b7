"""A state-space block between its two linear maps, as three Triton kernels forward and three backward.

It computes what `mmm4rec.model.mmm4rec.TimeAwareSSD` and `StateSpace` compute between `inputs` and `out`: the
convolution (`fused.conv`), the steps and the SSD (`fused.ssd`), the gate and the norm (`fused.norm`). The backward
kernels write into slices of one gradient of the projection. As separate functions, autograd would have to join it
from the gradients of its parts, which are as large as everything else that the block reads.

The module imports triton, which is an optional package: import this module only where it is used. It uses no
operation that autocast changes.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmm4rec.errors import ConfigError
from mmm4rec.model.fused import conv as fused_conv
from mmm4rec.model.fused import norm as fused_norm
from mmm4rec.model.fused import ssd as fused_ssd
from mmm4rec.model.picking import at


class Sizes(NamedTuple):
    """K heads of width P, G groups with S states each. The projection is 2 K P + 2 G S + K wide."""

    heads: int
    head_width: int
    groups: int
    state: int

    @property
    def inner(self) -> int:
        """The width of z and of the result, K P."""
        return self.heads * self.head_width

    @property
    def mixed(self) -> int:
        """The channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state


def missing(projected: Tensor, conv_weight: Tensor, sizes: Sizes) -> str | None:
    """Why `block` cannot run on projected [N,T,W] and conv_weight [C,w], and how to fix that; None if it can run."""
    if projected.shape[-1] != sizes.inner + sizes.mixed + sizes.heads:
        return f"the fused block needs a projection for {sizes} and this is {projected.shape[-1]} wide"
    z, mixed, _ = _parts(projected, sizes)
    x, B, _ = _by_head(mixed, sizes)
    return fused_conv.missing(mixed, conv_weight) or fused_ssd.missing(x, B) or fused_norm.missing(z)


def block(
    projected: Tensor,
    a: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    skip: Tensor,
    norm_weight: Tensor,
    eps: float,
    floor: float,
    sizes: Sizes,
) -> Tensor:
    """RMSNorm(SSD(x, B, C) * silu(z)) * norm_weight [N,T,Din], contiguous and in the type of `projected`.

    projected [N,T,W] is z, xBC and dt side by side, in float32, bfloat16 or float16. x, B and C are the parts of
    silu(conv(xBC)), with conv_weight [C,w] and conv_bias [C]. The steps are softplus(dt * a + dt_bias), with dt_bias
    [K] and a [N,K,L], L >= T (None: 1). A = -exp(A_log), A_log and skip [K], norm_weight [Din], eps > 0. The log-decay
    of a step is at least `floor`.

    Raises:
        ConfigError: the kernels cannot run on these tensors (`missing` gives the reason).
    """
    if reason := missing(projected, conv_weight, sizes):
        raise ConfigError(reason)
    arguments = (projected, a, conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight, eps, floor, sizes)
    return cast(Tensor, _Block.apply(*arguments))  # type: ignore[no-untyped-call]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, a: Tensor | None, *arguments: Any) -> Tensor:
        *weights, eps, floor, sizes = arguments
        projected, weights = projected.contiguous(), [w.contiguous() for w in weights]
        conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight = weights
        z, raw, dt = _parts(projected, sizes)
        mixed = fused_conv.convolve(raw, conv_weight, conv_bias, silu=True)
        x, B, C = _by_head(mixed, sizes)
        y = fused_ssd.scan(x, dt, A_log, B, C, skip, floor, dt_bias, a).flatten(-2)
        ctx.save_for_backward(projected, a, mixed, y, *weights)
        ctx.eps, ctx.floor, ctx.sizes = eps, floor, sizes
        as_rows = fused_norm.as_rows
        return fused_norm.gate(as_rows(y), as_rows(z), norm_weight, eps, y.dtype).view(y.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, a, mixed, y, *weights = ctx.saved_tensors
        conv_weight, conv_bias, dt_bias, A_log, skip, norm_weight = weights
        to_projected = torch.empty_like(projected)
        z, raw, dt = _parts(projected, ctx.sizes)
        to_z, to_raw, to_dt = _parts(to_projected, ctx.sizes)
        to_y, to_mixed = torch.empty_like(y), torch.empty_like(mixed)
        g_rows, y_rows, z_rows = (fused_norm.as_rows(m) for m in (gradient, y, z))
        to_norm = fused_norm.gate_backward(
            *(g_rows, y_rows, z_rows, norm_weight), ctx.eps, to_y.flatten(0, 1), to_z.flatten(0, 1)
        )
        (x, B, C), (to_x, to_B, to_C) = _by_head(mixed, ctx.sizes), _by_head(to_mixed, ctx.sizes)
        # The kernel writes the T positions of the steps. Those after them have no influence.
        to_a = None if a is None else torch.zeros_like(a) if a.shape[2] > y.shape[1] else torch.empty_like(a)
        to_A, to_skip, to_bias = fused_ssd.scan_backward(
            *(to_y.view(x.shape), x, dt, A_log, B, C, skip, ctx.floor, to_x, to_dt, to_B, to_C, dt_bias, a, to_a)
        )
        to_conv = fused_conv.convolve_backward(to_mixed, raw, conv_weight, conv_bias, True, to_raw)
        to_heads = (to_bias.to(dt_bias.dtype), to_A.to(A_log.dtype), to_skip.to(skip.dtype))
        return to_projected, to_a, *to_conv, *to_heads, to_norm, None, None, None


def last_of_block(
    projected: Tensor,
    C: Tensor,
    last: Tensor,
    a: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    skip: Tensor,
    floor: float,
    sizes: Sizes,
) -> Tensor:
    """SSD(x, B, C) at position last [N] int64 of each sequence -> [N,Din], in the type of `projected`.

    projected [N,T,Din+G*S+K] is xB and dt side by side. x and B are the parts of silu(conv(xB)), and C [N,G*S] is that
    of position `last`; no other is needed. The other arguments, and the steps, are as in `block`.

    Raises:
        ConfigError: the kernels cannot run on these tensors.
    """
    raw, _ = _content(projected, sizes)
    if reason := fused_conv.missing(raw, conv_weight) or fused_ssd.missing(*_content_by_head(raw, sizes)):
        raise ConfigError(reason)
    arguments = (projected, C, last, a, conv_weight, conv_bias, dt_bias, A_log, skip, floor, sizes)
    return cast(Tensor, _LastOfBlock.apply(*arguments))  # type: ignore[no-untyped-call]


class _LastOfBlock(torch.autograd.Function):
    """The scan of all positions with the C of the last one: at that position, it is the scan with all C."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, C: Tensor, last: Tensor, a: Tensor | None, *arguments: Any) -> Tensor:
        *weights, floor, sizes = arguments
        projected, weights = projected.contiguous(), [w.contiguous() for w in weights]
        conv_weight, conv_bias, dt_bias, A_log, skip = weights
        raw, dt = _content(projected, sizes)
        mixed = fused_conv.convolve(raw, conv_weight, conv_bias, silu=True)
        C = C.to(mixed.dtype).contiguous()
        y = fused_ssd.scan(*_scanned(mixed, dt, A_log, C, sizes), skip, floor, dt_bias, a).flatten(-2)
        ctx.save_for_backward(projected, C, last, a, mixed, *weights)
        ctx.floor, ctx.sizes = floor, sizes
        return at(y, last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, C, last, a, mixed, *weights = ctx.saved_tensors
        conv_weight, conv_bias, dt_bias, A_log, skip = weights
        x, dt, A, B, C_all = _scanned(mixed, _content(projected, ctx.sizes)[1], A_log, C, ctx.sizes)
        to_y = mixed.new_zeros(*mixed.shape[:2], ctx.sizes.inner)
        place = last[:, None, None].expand(-1, 1, ctx.sizes.inner)
        to_y.scatter_(1, place, gradient[:, None].to(to_y.dtype))
        to_projected, to_mixed, to_C = torch.empty_like(projected), torch.empty_like(mixed), torch.empty_like(C_all)
        (to_raw, to_dt), (to_x, to_B) = _content(to_projected, ctx.sizes), _content_by_head(to_mixed, ctx.sizes)
        to_a = None if a is None else torch.zeros_like(a) if a.shape[2] > x.shape[1] else torch.empty_like(a)
        to_A, to_skip, to_bias = fused_ssd.scan_backward(
            *(to_y.view(x.shape), x, dt, A, B, C_all, skip, ctx.floor, to_x, to_dt, to_B, to_C, dt_bias, a, to_a)
        )
        to_conv = fused_conv.convolve_backward(
            to_mixed, _content(projected, ctx.sizes)[0], conv_weight, conv_bias, True, to_raw
        )
        to_C = at(to_C.flatten(-2), last)
        to_heads = (to_bias.to(dt_bias.dtype), to_A.to(A_log.dtype), to_skip.to(skip.dtype))
        return to_projected, to_C, None, to_a, *to_conv, *to_heads, None, None


def _content(projected: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """xB [N,T,Din+G*S] and dt [N,T,K]."""
    raw, dt = torch.split(projected, [sizes.inner + sizes.groups * sizes.state, sizes.heads], dim=-1)
    return raw, dt


def _content_by_head(mixed: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """x [N,T,K,P] and B [N,T,G,S]."""
    x, B = torch.split(mixed, [sizes.inner, sizes.groups * sizes.state], dim=-1)
    rows = mixed.shape[:2]
    return x.view(*rows, sizes.heads, sizes.head_width), B.view(*rows, sizes.groups, sizes.state)


def _scanned(
    mixed: Tensor, dt: Tensor, A_log: Tensor, C: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The first arguments of `fused.ssd.scan`; C is the same at all positions, without a copy."""
    x, B = _content_by_head(mixed, sizes)
    C_all = C.view(len(C), 1, sizes.groups, sizes.state).expand(-1, x.shape[1], -1, -1)
    return x, dt, A_log, B, C_all


def _parts(projected: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """z [N,T,Din], xBC [N,T,C] and dt [N,T,K]."""
    z, mixed, dt = torch.split(projected, [sizes.inner, sizes.mixed, sizes.heads], dim=-1)
    return z, mixed, dt


def _by_head(mixed: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """x [N,T,K,P], B and C [N,T,G,S]."""
    grouped = sizes.groups * sizes.state
    x, B, C = torch.split(mixed, [sizes.inner, grouped, grouped], dim=-1)
    rows, by_group = mixed.shape[:2], (sizes.groups, sizes.state)
    return x.view(*rows, sizes.heads, sizes.head_width), B.view(*rows, *by_group), C.view(*rows, *by_group)
