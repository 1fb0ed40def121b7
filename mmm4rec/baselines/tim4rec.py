"""TiM4Rec: time-aware SSD blocks over the item vectors (Fan et al. 2024, arXiv 2409.16182).

MMM4Rec adopted this block, so it is the `TimeAwareSSD` of this package, in the default mode: gaps only between real
interactions, in log(1 + days), and an initialisation from which the time path learns. So MMM4Rec is compared with its
own branch under equal conditions, without differences in data handling.

Three points are unclear in public: whether heads share B and C (here they do, the default of Mamba-2; in MMM4Rec each
head has its own), how layers pass on the gap signal (here as in MMM4Rec), and whether the skip connection uses x or
delta * x (here the latter, as in MMM4Rec).
"""

from typing import cast

from torch import Tensor, nn

from mmm4rec.baselines.config import TiM4RecConfig
from mmm4rec.baselines.items import Baseline, initialised
from mmm4rec.config import ModelConfig, SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.gaps import GapNorm, StepScale, gap_inputs
from mmm4rec.model.mmm4rec import FeedForward, TimeAwareSSD


class TiM4Rec(Baseline):
    """LN(dropout(items)), then layers of a time-aware block and a feed-forward network of four times the width."""

    config_type = TiM4RecConfig
    has_state_space = True

    def __init__(self, config: TiM4RecConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.gap_norm = GapNorm(config.length, eps=config.norm_eps)
        self.gap_dropout = Dropout(config.dropout_time)
        self.layers = nn.ModuleList(
            Layer(config, ssd_form, last=number == config.layers) for number in range(1, config.layers + 1)
        )
        initialised(self.layers)
        for module in self.modules():
            if isinstance(module, StepScale):
                module.reset_parameters(self.rules)

    def encode(self, tokens: Tensor, batch: Batch) -> Tensor:
        """[B,T,H] -> [B,T,H]."""
        gaps, real = gap_inputs(batch.times, batch.lengths, self.rules, self.gap_norm.weight.dtype)
        # [B,1,L], the same for all heads.
        D: Tensor | None = self.gap_norm.of_gaps(gaps, self.gap_dropout, real)[:, None]
        x = self.norm(self.dropout(tokens))
        for layer in self.layers:
            x, D = layer(x, D, None if real is None else real[:, None])
        return cast(Tensor, x)


class Layer(nn.Module):
    """FFN(LN(dropout(block(x)) + x))."""

    def __init__(self, config: TiM4RecConfig, ssd_form: SSDForm, last: bool) -> None:
        super().__init__()
        sizes = ModelConfig(
            hidden=config.hidden, length=config.length, state=config.state, head_width=config.head_width, groups=1,
            expand=config.expand, conv_width=config.conv_width, dropout_time=config.dropout_time,
            norm_eps=config.norm_eps,
        )  # fmt: skip
        self.heads = sizes.heads
        self.block = TimeAwareSSD(sizes, ssd_form, last)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.ffn = FeedForward(
            config.hidden, 4 * config.hidden, config.dropout, config.norm_eps, between=config.dropout
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, D: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x [B,T,H], D [B,1 or K,L] -> [B,T,H] and the gap signal of the next layer [B,K,L], None after the last."""
        out, D_next = self.block(x, D.expand(-1, self.heads, -1), real)
        return self.ffn(self.norm(self.dropout(out) + x)), D_next
