"""Ablations: MMM4Rec without a part, or with a part replaced, to measure the value of that part. They are trained from
scratch, only for comparisons (`mmm4rec.comparison`); the pipeline has no setting for them.

Parts that a field of `ModelConfig` can switch off (time, feed-forward networks) are switched off by that field.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.config import ModelConfig, SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.model.gaps import ComplexLinear, FourierMixing
from mmm4rec.model.mmm4rec import CrossSSD, Layer, MMM4Rec, TimeAwareSSD
from mmm4rec.model.picking import at
from mmm4rec.model.state_space import StateSpace


@dataclass(frozen=True)
class AblationConfig(ModelConfig):
    """The settings of MMM4Rec, and the changes to it."""

    kind: ClassVar[str] = "AblatedMMM4Rec"
    shared_projection: bool = True
    """Whether text and image share one TimeAwareSSD; otherwise each has its own."""
    text_filter: bool = True
    """Whether a learned filter (Wt) is applied to the spectrum of the text's gap signal."""
    image_filter: bool = True
    """The same for the filter Wv of the image's gap signal."""
    cross_filter: bool = True
    """Whether the sum of both passes Wco; otherwise it is halved, as the initial Wco of default mode does."""
    mixer: Literal["ssd", "attention"] = "ssd"
    """The layer that mixes positions in all blocks."""


class AblatedMMM4Rec(MMM4Rec):
    """The model that an `AblationConfig` describes."""

    config_type = AblationConfig

    def __init__(self, config: AblationConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        layers = [module for module in self.layers if isinstance(module, Layer)]
        if not config.shared_projection:
            for layer in layers:
                layer.add_module("branches", SeparateBranches(config, ssd_form))
        if config.mixer == "attention":
            for module in list(self.modules()):
                if isinstance(module, (TimeAwareSSD, CrossSSD)):
                    module.add_module("state_space", AttentionMixer(config, ssd_form))
        self._initialise()  # again, to include the replaced parts
        for mixing in [module for module in self.modules() if isinstance(module, FourierMixing)]:
            if not config.text_filter:
                mixing.add_module("text", FixedMap(mixing.text, constant=1.0))
            if not config.image_filter:
                mixing.add_module("image", FixedMap(mixing.image, constant=1.0))
            if not config.cross_filter:
                mixing.add_module("cross", FixedMap(mixing.cross, factor=0.5))


class SeparateBranches(nn.Module):
    """One TimeAwareSSD for each branch, instead of one for both."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm) -> None:
        super().__init__()
        self.text, self.image = (TimeAwareSSD(config, ssd_form) for _ in range(2))

    def forward(self, u: Tensor, D: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Like `TimeAwareSSD.forward`, over text, then image: u [2B,T,H], D [2B,K,L], real [2B,1,L]."""
        (u_text, u_image), (D_text, D_image), (real_text, real_image) = (
            (None, None) if tensor is None else tensor.chunk(2) for tensor in (u, D, real)
        )
        out_text, next_text = self.text(u_text, D_text, real_text)
        out_image, next_image = self.image(u_image, D_image, real_image)
        return torch.cat([out_text, out_image]), None if D is None else torch.cat([next_text, next_image])


class AttentionMixer(StateSpace):
    """Causal softmax attention instead of the SSD: C is the query, B the key and delta * x the value, with the same
    skip connection. The decay A is gone. The steps delta stay, and with them the gaps."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm) -> None:
        super().__init__(config, ssd_form)
        del self.A_log

    def forward(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, z: Tensor, a: Tensor | None) -> Tensor:
        """Like `StateSpace.forward`."""
        values = self._values(x, dt, a)
        found = F.scaled_dot_product_attention(self._heads(C), self._heads(B), values, is_causal=True)
        return self._result((found + self.skip[:, None, None] * values).transpose(1, 2), z)

    def at_last(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, z: Tensor, a: Tensor | None, last: Tensor) -> Tensor:
        """Like `StateSpace.at_last`."""
        values = self._values(x, dt, a)
        seen = torch.arange(x.shape[1], device=x.device) <= last[:, None]
        queries = self._heads(C[:, None])
        found = F.scaled_dot_product_attention(queries, self._heads(B), values, attn_mask=seen[:, None, None])
        own = at(values.transpose(1, 2).flatten(-2), last).view(len(x), self.heads, self.head_width)
        return self._result(found[:, :, 0] + self.skip[:, None] * own, z)

    def _values(self, x: Tensor, dt: Tensor, a: Tensor | None) -> Tensor:
        """delta * x, [B,K,T,P]."""
        return (self._steps(dt, a)[..., None] * self._by_head(x)).to(x.dtype).transpose(1, 2)

    def _heads(self, grouped: Tensor) -> Tensor:
        """[B,T,G*S] -> [B,K,T,S]."""
        return self._by_group(grouped).repeat_interleave(self.heads // self.groups, dim=2).transpose(1, 2)


class FixedMap(nn.Module):
    """x -> factor * x + constant as the weights of a `ComplexLinear`, which are not trained."""

    def __init__(self, like: ComplexLinear, factor: float = 0.0, constant: float = 0.0) -> None:
        super().__init__()
        self.real, self.imag = nn.Module(), nn.Module()
        width = like.real.in_features
        # The bias of the result is (b_r - b_i) + i (b_r + b_i).
        for part, weight, bias in ((self.real, factor, constant / 2), (self.imag, 0.0, -constant / 2)):
            part.register_buffer("weight", weight * torch.eye(width), persistent=False)
            part.register_buffer("bias", torch.full((width,), bias), persistent=False)
