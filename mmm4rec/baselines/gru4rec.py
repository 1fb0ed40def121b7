"""GRU4Rec: a recurrent network over the item vectors (Hidasi et al. 2016, arXiv 1511.06939).

This is the form that the sequential literature compares with (RecBole's): z = sigmoid(W_z x + U_z h), r = sigmoid(W_r x
+ U_r h), n = tanh(W_n x + r * (U_n h)), h' = (1 - z) n + z h, without biases, and a linear map of h back to the width
of item vectors. It is initialised as in RecBole: with the N(0, 0.02) of the other baselines it learns too slowly for a
fair comparison on a small domain. The batches and the loss of the trainer replace the original's session-parallel
batches and sampled ranking losses.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mmm4rec.baselines.config import GRU4RecConfig
from mmm4rec.baselines.items import Baseline
from mmm4rec.config import SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.ssd import widened


class GRU4Rec(Baseline):
    """Items, dropout, GRU, linear map."""

    config_type = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.hidden, config.inner, config.layers, bias=False, batch_first=True)
        self.out = nn.Linear(config.inner, config.hidden)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)
        if config.items != "text":
            nn.init.xavier_normal_(self.item)

    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        with torch.autocast(tokens.device.type, enabled=False):  # not every device has a half-precision recurrence
            states, _ = self.gru(self.dropout(widened(tokens)))
        return cast(Tensor, self.out(states))
