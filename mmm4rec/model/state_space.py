"""The part that all state-space blocks share: steps, SSD, skip connection, gate, norm, output map.

Symbols as in `mmm4rec.model.mmm4rec`.
"""

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.config import ModelConfig, SSDForm
from mmm4rec.model.gaps import CausalConv
from mmm4rec.model.kernels import fused_block_missing
from mmm4rec.model.norms import RMSNorm, gated_norm
from mmm4rec.model.picking import at
from mmm4rec.model.ssd import ssd, widened, without_autocast

if TYPE_CHECKING:
    from mmm4rec.model.fused.block import Sizes

RMS_EPS = 1e-12


class StateSpace(nn.Module):
    """The part that both blocks share: steps, SSD, skip connection, gate, norm, output map."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.groups, self.state = config.group_count, config.state
        self.ssd_form = ssd_form
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(config.inner_width, eps=RMS_EPS)
        self.out = nn.Linear(config.inner_width, config.hidden)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.dt_bias.copy_(step_bias(self.heads))

    def forward(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, z: Tensor, a: Tensor | None) -> Tensor:
        """x, z [B,T,Din], B, C [B,T,G*S], dt [B,T,K], a [B,K,L] or None -> [B,T,H]."""
        x, B, C = self._by_head(x), self._by_group(B), self._by_group(C)
        delta = self._steps(dt, a)
        # The skip connection uses delta * x; Mamba's uses x.
        return self._result(ssd(x, delta, -torch.exp(self.A_log), B, C, self.ssd_form, self.skip), z)

    def at_last(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, z: Tensor, a: Tensor | None, last: Tensor) -> Tensor:
        """The output of `forward` at position last [B], from C [B,G*S] and z [B,Din] of that position -> [B,H]."""
        x, B, C = self._by_head(x), self._by_group(B), self._by_group(C)
        delta = self._steps(dt, a)
        with without_autocast(x.device):
            total = (widened(delta) * -torch.exp(self.A_log)).cumsum(1)
            elapsed = at(total, last)[:, None] - total
            position = torch.arange(x.shape[1], device=x.device)
            decay = elapsed.masked_fill((position > last[:, None])[..., None], -torch.inf).exp()
        similarity = (B * C[:, None]).sum(-1).repeat_interleave(self.heads // self.groups, dim=-1)
        # The skip connection, delta * x at the position itself, is one more term of the same sum.
        weights = similarity * decay + self.skip * (position == last[:, None])[..., None]
        y = ((weights * delta)[..., None] * x).sum(1)
        return self._result(y, z)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_width)

    def _by_group(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.groups, self.state)

    def _steps(self, dt: Tensor, a: Tensor | None) -> Tensor:
        """delta [B,T,K]."""
        if a is not None:
            dt = dt * a[..., : dt.shape[1]].transpose(1, 2)
        return F.softplus(dt + self.dt_bias)

    def _result(self, y: Tensor, z: Tensor) -> Tensor:
        return self.gated(y.flatten(-2), z)

    def gated(self, y: Tensor, z: Tensor) -> Tensor:
        """The gate, the norm and the output map: y, z [..., Din] -> [..., H]."""
        return cast(Tensor, self.out(gated_norm(self.norm, y, z)))

    def sizes(self) -> "Sizes":
        """The sizes for the kernels."""
        from mmm4rec.model.fused.block import Sizes

        return Sizes(self.heads, self.head_width, self.groups, self.state)


def has_kernel(space: StateSpace, conv: CausalConv, projected: Tensor) -> bool:
    """Whether our kernels of a block can run on `projected` [N,T,W]."""
    if type(space) is not StateSpace or space.ssd_form not in ("auto", "short"):
        return False
    inner, widest = space.heads * space.head_width, max(space.head_width, space.state)
    return fused_block_missing(projected.device, projected.dtype, projected.shape[1], widest, inner, conv) is None


def step_bias(count: int) -> Tensor:
    """[count] values whose softplus are steps, drawn log-uniformly from 0.001 to 0.1, as Mamba initialises them."""
    step = torch.empty(count).uniform_(math.log(1e-3), math.log(0.1)).exp_().clamp_(min=1e-4)
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus
