"""Mamba4Rec: Mamba blocks over the item vectors (Liu et al. 2024, arXiv 2403.03900).

The block is that of Mamba (Gu and Dao 2023, arXiv 2312.00752), the selective scan. It is not the SSD of Mamba-2 that
MMM4Rec and TiM4Rec use: here every channel has its own S decays, and there each head has one decay. Papers on SSD
compare this difference, so the scan is computed as published, by its recurrence in plain torch. The kernel of mamba-ssm
would need CUDA, and it would gain little at 20 positions.

As in the public implementation, the block has a residual connection only if there are several layers. Linear maps are
initialised as in the other baselines, except the step sizes, which are initialised as in Mamba.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.baselines.config import Mamba4RecConfig
from mmm4rec.baselines.items import Baseline, initialised
from mmm4rec.config import SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.gaps import CausalConv
from mmm4rec.model.mmm4rec import FeedForward
from mmm4rec.model.ssd import widened
from mmm4rec.model.state_space import step_bias


class Mamba(nn.Module):
    """[x | z] = W_in u; x = silu(conv(x)); [r | B | C] = W_x x; delta = softplus(W_dt r + b); W_o (y * silu(z)), where
    y is the scan plus a skip D * x.

    Din = expand * H channels, S states each; r is H/16 wide (at least 1).
    """

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        inner, rank = config.expand * config.hidden, math.ceil(config.hidden / 16)
        self.split = [rank, config.state, config.state]
        self.inputs = nn.Linear(config.hidden, 2 * inner, bias=False)
        self.conv = CausalConv(inner, config.conv_width)
        self.selection = nn.Linear(inner, sum(self.split), bias=False)
        self.out = nn.Linear(inner, config.hidden, bias=False)
        initialised(self)
        self.steps = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, config.state + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        with torch.no_grad():
            self.steps.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.steps.bias.copy_(step_bias(inner))

    def forward(self, u: Tensor) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        x, z = self.inputs(u).chunk(2, dim=-1)
        x = self.conv(x)
        r, B, C = torch.split(self.selection(x), self.split, dim=-1)
        delta = F.softplus(self.steps(r))
        y = selective_scan(x, delta, -torch.exp(self.A_log), B, C) + self.skip * x
        return cast(Tensor, self.out((y * F.silu(z)).to(u.dtype)))


def selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, y_t = C_t h_t, channel by channel.

    x, delta [B,T,Din], A [Din,S] (negative), B and C [B,T,S] -> y [B,T,Din], in float32 or wider.
    """
    x, delta, B, C = (widened(m) for m in (x, delta, B, C))
    with torch.autocast(x.device.type, enabled=False):
        state = x.new_zeros(len(x), *A.shape)
        outputs = []
        for x_t, delta_t, B_t, C_t in zip(*(m.unbind(1) for m in (x, delta, B, C)), strict=True):
            added = (delta_t * x_t)[..., None] * B_t[:, None]
            state = torch.exp(delta_t[..., None] * A) * state + added
            outputs.append((state @ C_t[..., None])[..., 0])
        return torch.stack(outputs, dim=1)


class Mamba4Rec(Baseline):
    """LN(dropout(items)), then layers of a Mamba block and a feed-forward network of four times the width."""

    config_type = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        x = self.norm(self.dropout(tokens))
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, x)


class Layer(nn.Module):
    """FFN(LN(dropout(mamba(x)))), with + x inside the norm where there are several layers."""

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        self.mamba = Mamba(config)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.ffn = initialised(
            FeedForward(config.hidden, 4 * config.hidden, config.dropout, config.norm_eps, between=config.dropout)
        )
        self.dropout = Dropout(config.dropout)
        self.residual = config.layers > 1

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        out = self.dropout(self.mamba(x))
        return cast(Tensor, self.ffn(self.norm(out + x if self.residual else out)))
