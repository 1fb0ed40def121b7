"""SASRec: causal self-attention over item and position vectors (Kang and McAuley 2018, arXiv 1808.09781).

This is the form that the sequential literature compares with (RecBole's, and therefore BSARec's and UniSRec's). It has
layer norm after each residual and GELU; the original normalises before and has ReLU. Position 0 is the oldest of the
last L interactions; the original counts from the end. The loss of the trainer replaces the original's loss with one
sampled negative. The text form (SASRec_T) uses adapted text vectors for items.
"""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from mmm4rec.baselines.config import SASRecConfig
from mmm4rec.baselines.items import STD, Attention, Baseline, initialised
from mmm4rec.config import SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.mmm4rec import FeedForward


class SASRec(Baseline):
    """Items + positions, then layers of attention and feed-forward network."""

    config_type: ClassVar[type[SASRecConfig]] = SASRecConfig

    def __init__(self, config: SASRecConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        self.positions = nn.Parameter(torch.empty(config.length, config.hidden).normal_(std=STD))
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout_hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(
                self.make_mixing(config),
                FeedForward(config.hidden, config.inner, config.dropout_hidden, config.norm_eps),
            )
            for _ in range(config.layers)
        )
        initialised(self.layers)

    def make_mixing(self, config: SASRecConfig) -> nn.Module:
        """The part of a layer that looks across positions, [B,T,H] -> [B,T,H]."""
        return Attention(config)

    def placed(self, tokens: Tensor) -> Tensor:
        """The input of the first layer: LN(tokens + positions), [B,T,H] -> [B,T,H]."""
        return cast(Tensor, self.dropout(self.norm(tokens + self.positions[: tokens.shape[1]])))

    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        x = self.placed(tokens)
        for layer in self.layers:
            x = layer(x)
        return x
