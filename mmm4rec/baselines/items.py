"""The common parts of the trained baselines: item vectors, reading a sequence at its end, and attention. Shapes as in
`mmm4rec.model.recommender`.
"""

import math
from abc import abstractmethod
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.baselines.config import BaselineConfig, SASRecConfig
from mmm4rec.config import SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.picking import at
from mmm4rec.model.recommender import Recommender
from mmm4rec.model.ssd import widened

M = TypeVar("M", bound=nn.Module)

STD = 0.02
"""Deviation of initial weights, as in the public implementations of these models (GRU4Rec has its own)."""


class Baseline(Recommender):
    """A model with one vector per item, read at the last interaction. The score is the product of both vectors."""

    config: BaselineConfig
    text_features: Tensor
    text_present: Tensor

    def __init__(self, config: BaselineConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        if config.items != "text":
            self.item = nn.Parameter(torch.empty(self.item_count + 1, config.hidden).normal_(std=STD))
        if config.items != "id":
            self.register_buffer("text_features", domain.text.vectors, persistent=False)
            self.register_buffer("text_present", domain.text.present, persistent=False)
            self.adapter = self.make_adapter(domain.text.width)
            self.absent = nn.Parameter(torch.empty(config.hidden).normal_(std=STD))

    def make_adapter(self, width: int) -> nn.Module:
        """The map of text vectors [n,`width`] to [n,H]."""
        return initialised(nn.Linear(width, self.config.hidden))

    def item_vectors(self, index: Tensor | None = None) -> Tensor:
        """E [1,n,H] of the items `index` [n] (None: all); an item without text has the learned vector `absent`."""

        def rows(table: Tensor) -> Tensor:
            return table if index is None else table[index]

        if self.config.items == "id":
            return rows(self.item)[None]
        text = torch.where(rows(self.text_present)[:, None], self.adapter(rows(self.text_features)), self.absent)
        return (text if self.config.items == "text" else text + rows(self.item))[None]

    def score_vectors(self, vectors: Tensor, index: Tensor | None = None) -> Tensor:
        """The item vectors themselves: E [1,n,H] -> [n,H]."""
        return widened(vectors[0])

    def user_vectors(self, batch: Batch, vectors: Tensor, rows: Tensor) -> Tensor:
        """u [B,H], what `encode` gives at the last interaction; rows [B,T] index E [1,n,H]."""
        return widened(at(self.encode(F.embedding(rows, vectors[0]), batch), batch.lengths - 1))

    @abstractmethod
    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Item vectors [B,T,H], padded on the right, -> [B,T,H]. Values at padding are not read."""


class Attention(nn.Module):
    """LN(dropout(W_o softmax(Q K^T / sqrt(H/heads)) V) + x). A position sees itself and earlier positions."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.inputs = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout, self.dropout_weights = Dropout(config.dropout_hidden), Dropout(config.dropout_attention)

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        # each [B,heads,T,H/heads]
        Q, K, V = (m.unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in self.inputs(x).chunk(3, dim=-1))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = widened(Q @ K.mT) / math.sqrt(Q.shape[-1])
        weights = self.dropout_weights(scores.masked_fill(later, -torch.inf).softmax(-1)).to(V.dtype)
        mixed = (weights @ V).transpose(1, 2).flatten(-2)
        return cast(Tensor, self.norm(self.dropout(self.out(mixed)) + x))


def initialised(module: M) -> M:
    """`module` with linear maps at N(0, 0.02) and biases at 0, as in RecBole."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
