"""UniSRec: SASRec over text vectors that a mixture of experts adapts (Hou et al. 2022, arXiv 2206.05941).

An expert whitens: (x - b) W. The adaptor is sum_k g_k (x - b_k) W_k, g = softmax(x W_1 + noise * softplus(x W_2)),
with noise N(0,1) only in training. Scores are cosines divided by a temperature. With `items: both`, the transductive
setting of the paper, the trainable vector of an item is added to its text vector.

Pre-training: the paper contrasts a sequence with the next items of a batch from several domains, and with the same
sequence after another dropout of items or words. The first is the in-batch softmax loss of the trainer (`fit` over
`merge_domains` with `PRETRAINING`, then `fit(init=...)`). The second is not built, because it would need texts encoded
again without some words. The fine-tuning of the paper freezes the sequence encoder; here everything learns, as in the
other models. Dropout and noise of the adaptor are drawn once per step, because all batches of a step share its item
vectors.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.baselines.config import UniSRecConfig
from mmm4rec.baselines.items import STD
from mmm4rec.baselines.sasrec import SASRec
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.ssd import widened

LEAST_NOISE = 0.01
"""Added to the noise's scale, so that a gate never becomes certain in training; from the public implementation."""


class ExpertAdaptor(nn.Module):
    """The mixture of G whitening experts: D wide texts to H wide item vectors."""

    def __init__(self, width: int, config: UniSRecConfig) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(config.experts, width))
        self.maps = nn.Parameter(torch.empty(config.experts, width, config.hidden).normal_(std=STD))
        self.gate, self.noise = (nn.Parameter(torch.zeros(width, config.experts)) for _ in range(2))
        self.dropout = Dropout(config.dropout_adapter)

    def forward(self, x: Tensor) -> Tensor:
        """[n,D] -> [n,H]."""
        logits = x @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.noise) + LEAST_NOISE)
        gates = widened(logits).softmax(-1)
        x = self.dropout(x)
        # Expert by expert, because all at once would need [n,G,H] in memory.
        vectors = torch.zeros(len(x), self.maps.shape[-1], dtype=gates.dtype, device=x.device)
        for gate, shift, weight in zip(gates.T, self.shift, self.maps, strict=True):
            vectors = vectors + gate[:, None] * ((x - shift) @ weight)
        return vectors


class UniSRec(SASRec):
    """SASRec whose items are adapted texts and whose scores are cosines."""

    config_type = UniSRecConfig

    def make_adapter(self, width: int) -> nn.Module:
        """The mixture of experts."""
        return ExpertAdaptor(width, cast(UniSRecConfig, self.config))

    def score_vectors(self, vectors: Tensor, index: Tensor | None = None) -> Tensor:
        """Unit vectors over the temperature: E [1,n,H] -> [n,H]."""
        return F.normalize(widened(vectors[0]), dim=-1) / cast(UniSRecConfig, self.config).temperature

    def user_vectors(self, batch: Batch, vectors: Tensor, rows: Tensor) -> Tensor:
        """Unit vectors u [B,H]; rows [B,T] index E [1,n,H]."""
        return F.normalize(super().user_vectors(batch, vectors, rows), dim=-1)
