"""BSARec: self-attention beside a filter of the sequence's frequencies (Shin et al. 2024, arXiv 2312.10325).

A layer is alpha * filter(x) + (1 - alpha) * attention(x), then the feed-forward network; filter(x) is
LN(dropout(low + beta^2 high) + x), where `low` is x with only its c lowest frequencies, high = x - low, and beta [H] is
learned. The transform covers all L positions, so within a history a position also sees later ones. The paper does the
same, and it is not a leak, because the history ends before the label.

The public implementation pads on the left, and the transform includes the padding, which has position vectors. Here the
padding is on the right and 0, so a history gives the same vector in every batch.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mmm4rec.baselines.config import BSARecConfig, SASRecConfig
from mmm4rec.baselines.items import Attention
from mmm4rec.baselines.sasrec import SASRec
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.ssd import widened


class FrequencyFilter(nn.Module):
    """LN(dropout(low + beta^2 high) + x)."""

    def __init__(self, config: BSARecConfig) -> None:
        super().__init__()
        self.length = config.length
        self.bins = config.cutoff // 2 + 1
        self.beta = nn.Parameter(torch.randn(config.hidden))
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout_hidden)

    def filtered(self, x: Tensor) -> Tensor:
        """x [B,T,H], 0 at padding; positions T to L count as 0. Returns low + beta^2 high [B,T,H]."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(widened(x), n=self.length, dim=1, norm="ortho")
            # irfft takes the frequencies that are not passed as 0.
            low = torch.fft.irfft(spectrum[:, : self.bins], n=self.length, dim=1, norm="ortho")[:, : x.shape[1]]
        filtered: Tensor = low + self.beta**2 * (x - low)
        return filtered

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        return cast(Tensor, self.norm(self.dropout(self.filtered(x)) + x))


class Mixing(nn.Module):
    """The weighted sum of the filter and the attention."""

    def __init__(self, config: BSARecConfig) -> None:
        super().__init__()
        self.alpha = config.alpha
        self.filter, self.attention = FrequencyFilter(config), Attention(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        return cast(Tensor, self.alpha * self.filter(x) + (1 - self.alpha) * self.attention(x))


class BSARec(SASRec):
    """SASRec with a filter in addition to its attention."""

    config_type = BSARecConfig

    def make_mixing(self, config: SASRecConfig) -> nn.Module:
        """The filter and the attention."""
        return Mixing(cast(BSARecConfig, config))

    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """[B,T,H] -> [B,T,H]; padding is 0 at the input of every layer, as the filter sees it too."""
        real = (torch.arange(tokens.shape[1], device=tokens.device) < batch.lengths[:, None])[..., None]
        x = self.placed(tokens)
        for layer in self.layers:
            x = layer(x * real)
        return x
