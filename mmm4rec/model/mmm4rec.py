"""MMM4Rec: two modalities pass one state-space block, a cross block joins them, and the output is read at the last
interaction.

From bottom to top: `StateSpace` (the common part of the two blocks, in `state_space`), `TimeAwareSSD` (text and image,
one set of weights), `CrossSSD` (C from the image; B and x from the text), `Layer`, `MMM4Rec`. The equations are those
of arXiv 2506.02916 and of its public implementation; the parity tensors verify them. Symbols: B batch, T positions
computed (the longest sequence of the batch), L positions of the time path, H hidden, K heads of width P, Din = K*P,
G groups, S state, N items.

This module loads no data, has no optimiser and uses no files.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.config import ModelConfig, SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.compat import rules
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.gaps import CausalConv, FourierMixing, GapGate, GapNorm, StepScale, gap_inputs
from mmm4rec.model.norms import norm_of_sum
from mmm4rec.model.picking import at, both_rows
from mmm4rec.model.recommender import Recommender
from mmm4rec.model.ssd import FORGOTTEN, widened
from mmm4rec.model.state_space import StateSpace, has_kernel


class TimeAwareSSD(nn.Module):
    """The block of the text and of the image branch (TiSSD). The `last` block of a model returns no gap signal."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm, last: bool = False) -> None:
        super().__init__()
        inner, grouped = config.inner_width, config.group_count * config.state
        self.widths = [inner, inner + 2 * grouped, config.heads]
        self.split = [inner, grouped, grouped]
        self.inputs = nn.Linear(config.hidden, sum(self.widths))
        self.conv = CausalConv(self.widths[1], config.conv_width)
        self.state_space = StateSpace(config, ssd_form)
        self.last = last
        if config.use_time:
            self.step_scale = StepScale(config.length, config.heads, config.conv_width, config.dropout_time)
            if not last:
                self.gap_gate = GapGate(config.length, config.norm_eps, config.dropout_time)

    def forward(self, u: Tensor, D: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """u [B,T,H], D [B,K,L] -> out [B,T,H], the gap signal for the next block [B,K,L]."""
        projected = self.inputs(u)
        a = None if D is None else self.step_scale(D)
        fused = has_kernel(self.state_space, self.conv, projected)
        out = self._by_one_kernel(projected, a) if fused else self._by_parts(projected, a)
        return out, None if a is None or self.last else self.gap_gate(D, a, real)

    def _by_parts(self, projected: Tensor, a: Tensor | None) -> Tensor:
        z, xBC, dt = torch.split(projected, self.widths, dim=-1)
        x, B, C = torch.split(self.conv(xBC), self.split, dim=-1)
        return cast(Tensor, self.state_space(x, B, C, dt, z, a))

    def _by_one_kernel(self, projected: Tensor, a: Tensor | None) -> Tensor:
        """On a GPU: all between the linear maps in three kernels, without joining gradients of parts."""
        from mmm4rec.model.fused.block import block

        space = self.state_space
        scalars = (space.dt_bias, space.A_log, space.skip, space.norm.weight)
        conv = (self.conv.weight[:, 0], self.conv.bias)
        return cast(
            Tensor, space.out(block(projected, a, *conv, *scalars, space.norm.eps or 0.0, FORGOTTEN, space.sizes()))
        )


class CrossSSD(nn.Module):
    """The block that joins the branches: x and B from the text, C from the image, and the gate from both."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm) -> None:
        super().__init__()
        inner, grouped = config.inner_width, config.group_count * config.state
        self.widths = [inner + grouped, config.heads]
        self.split = [inner, grouped]
        self.content = nn.Linear(config.hidden, sum(self.widths))
        self.query = nn.Linear(config.hidden, grouped)
        self.gate = nn.Linear(config.hidden, inner)
        self.content_conv = CausalConv(self.widths[0], config.conv_width)
        self.query_conv = CausalConv(grouped, config.conv_width)
        self.state_space = StateSpace(config, ssd_form)
        if config.use_time:
            self.step_scale = StepScale(config.length, config.heads, config.conv_width, config.dropout_time)

    def forward(self, text: Tensor, image: Tensor, D: Tensor | None) -> Tensor:
        """text, image [B,T,H], D [B,K,L] -> [B,T,H]."""
        xB, dt = torch.split(self.content(text), self.widths, dim=-1)
        x, B = torch.split(self.content_conv(xB), self.split, dim=-1)
        C = self.query_conv(self.query(image))
        a = None if D is None else self.step_scale(D)
        return cast(Tensor, self.state_space(x, B, C, dt, self.gate(image + text), a))

    def at_last(self, text: Tensor, image: Tensor, real: Tensor, D: Tensor | None, last: Tensor) -> Tensor:
        """The output of `forward` at position last [B] -> [B,H].

        It reads text [B,T,H] up to that position. Of the image it reads only the W positions [B,W,H] that the
        convolution sees; `real` [B,W] marks those that exist.
        """
        projected = self.content(text)
        C = self.query_conv.at_last(self.query(image), real)
        z = self.gate(image[:, -1] + at(text, last))
        a = None if D is None else self.step_scale(D)
        if has_kernel(self.state_space, self.content_conv, projected):
            from mmm4rec.model.fused.block import last_of_block

            conv = (self.content_conv.weight[:, 0], self.content_conv.bias)
            space = self.state_space
            scalars = (space.dt_bias, space.A_log, space.skip)
            y = last_of_block(projected, C, last, a, *conv, *scalars, FORGOTTEN, space.sizes())
            return space.gated(y, z)
        xB, dt = torch.split(projected, self.widths, dim=-1)
        x, B = torch.split(self.content_conv(xB), self.split, dim=-1)
        return self.state_space.at_last(x, B, C, dt, z, a, last)


class FeedForward(nn.Module):
    """LN(dropout(W2 f(W1 x)) + x), with dropout `between` the maps too if the model has it."""

    def __init__(
        self,
        hidden: int,
        inner: int,
        dropout: float,
        eps: float,
        between: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.dropout, self.between = Dropout(dropout), Dropout(between)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        inner = self.between(self.activation(self.widen(x)))
        return norm_of_sum(self.norm, self.dropout, self.narrow(inner), x)


class Layer(nn.Module):
    """Both branches through one TimeAwareSSD, then the cross block."""

    def __init__(self, config: ModelConfig, ssd_form: SSDForm) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden, eps=config.norm_eps)

        def feed_forward() -> nn.Module:
            if not config.use_ffn:
                return nn.Identity()
            dropout = config.dropout_hidden
            return FeedForward(config.hidden, config.inner, dropout, config.norm_eps, dropout, F.hardswish)

        self.branches = TimeAwareSSD(config, ssd_form)
        self.text_norm, self.image_norm, self.cross_norm = norm(), norm(), norm()
        # The image branch has no feed-forward network in the published code, although the paper draws one.
        self.text_ffn, self.cross_ffn = feed_forward(), feed_forward()
        self.cross = CrossSSD(config, ssd_form)
        self.dropout = Dropout(config.dropout_hidden)
        if config.use_time:
            self.fourier = FourierMixing(config.length)

    def forward(self, tokens: Tensor, D: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens [2B,T,H] (text, then image), D [2B,K,L] -> text [B,T,H], fused [B,T,H], D' [2B,K,L]."""
        out, D = self.branches(tokens, D, real)
        (out_text, out_image), (tokens_text, tokens_image) = out.chunk(2), tokens.chunk(2)
        text = self.text_ffn(norm_of_sum(self.text_norm, self.dropout, out_text, tokens_text))
        image = norm_of_sum(self.image_norm, self.dropout, out_image, tokens_image)
        cross = self.cross(text, image, self._joined(D))
        return text, self.cross_ffn(norm_of_sum(self.cross_norm, self.dropout, cross, image, text)), D

    def at_last(self, tokens: Tensor, D: Tensor | None, real: Tensor | None, last: Tensor) -> Tensor:
        """The fused output of `forward` at position last [B] -> [B,H].

        The top layer is read only at that position. Values that no other position needs are computed only for it.
        """
        out, D = self.branches(tokens, D, real)
        (out_text, out_image), (tokens_text, tokens_image) = out.chunk(2), tokens.chunk(2)
        text = self.text_ffn(norm_of_sum(self.text_norm, self.dropout, out_text, tokens_text))
        window = last[:, None] + torch.arange(1 - self.cross.query_conv.kernel_size[0], 1, device=last.device)
        exists, window = window >= 0, window.clamp(min=0)
        image = norm_of_sum(self.image_norm, self.dropout, at(out_image, window), at(tokens_image, window))
        cross = self.cross.at_last(text, image, exists, self._joined(D), last)
        fused = norm_of_sum(self.cross_norm, self.dropout, cross, image[:, -1], at(text, last))
        return cast(Tensor, self.cross_ffn(fused))

    def _joined(self, D: Tensor | None) -> Tensor | None:
        return None if D is None else self.fourier(D)


class MMM4Rec(Recommender):
    """The model over the catalogue of one domain: frozen features in buffers, everything else trainable."""

    config_type = ModelConfig
    has_state_space = True

    config: ModelConfig
    text_features: Tensor
    image_features: Tensor
    text_present: Tensor
    image_present: Tensor

    def __init__(self, config: ModelConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__(config, domain, ssd_form)
        self.rules = rules(config.compat)
        rows = domain.item_count + 1
        for name, features in (("text", domain.text), ("image", domain.image)):
            self.register_buffer(f"{name}_features", features.vectors, persistent=False)
            self.register_buffer(f"{name}_present", features.present, persistent=False)
        self.text_adapter = nn.Linear(domain.text.width, config.hidden)
        self.image_adapter = nn.Linear(domain.image.width, config.hidden)
        self.text_norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.image_norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout_embedding)
        if config.with_id:
            self.text_item = nn.Parameter(torch.zeros(rows, config.hidden))
            self.image_item = nn.Parameter(torch.zeros(rows, config.hidden))
        if not self.rules.missing_modality_is_a_vector:
            self.absent = nn.Parameter(torch.empty(2, config.hidden))
        if config.fusion != "static":
            self.fusion = nn.Parameter(torch.zeros((2,) if config.fusion == "dynamic_shared" else (rows, 2)))
        if config.use_time:
            self.gap_norm = GapNorm(config.length, eps=config.norm_eps)
            self.gap_dropout = Dropout(config.dropout_time)
        self.layers = nn.ModuleList(Layer(config, ssd_form) for _ in range(config.layers))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if not self.rules.missing_modality_is_a_vector:
            nn.init.normal_(self.absent, std=0.02)
        for module in self.modules():
            if isinstance(module, (StepScale, FourierMixing)):
                module.reset_parameters(self.rules)

    def item_vectors(self, index: Tensor | None = None) -> Tensor:
        """E [2,n,H]: the text and the image vector of the items `index` [n] (None: all, padding included).

        Default mode: an item without a modality has the learned vector `absent` instead of its features.
        """

        def rows(table: Tensor) -> Tensor:
            return table if index is None else table[index]

        vectors = [self.text_adapter(rows(self.text_features)), self.image_adapter(rows(self.image_features))]
        if not self.rules.missing_modality_is_a_vector:
            masks = (rows(self.text_present), rows(self.image_present))
            vectors = [
                torch.where(m[:, None], v, self.absent[i]) for i, (m, v) in enumerate(zip(masks, vectors, strict=True))
            ]
        if self.config.with_id:
            vectors = [vectors[0] + rows(self.text_item), vectors[1] + rows(self.image_item)]
        return torch.stack(vectors)

    def score_vectors(self, vectors: Tensor, index: Tensor | None = None) -> Tensor:
        """The vectors [n,H] whose product with a user vector is the score of the items `index`; from E
        [2,n,H].

        The unit vectors of both modalities are weighted, summed and divided by the temperature: one matrix instead of
        two. Default mode: a missing modality has weight 0, and the other modality gets its share. An item that lacks
        both is scored with the `absent` vectors.
        """
        weights = self._modality_weights(index)
        unit = F.normalize(widened(vectors), dim=-1)
        return (unit * weights.T[..., None]).sum(0) / self.config.temperature

    def _modality_weights(self, index: Tensor | None) -> Tensor:
        """[n,2] (or [1,2] if all items share them)."""
        static = self.config.fusion == "static"
        logits = self.text_features.new_zeros(1, 2) if static else self.fusion.view(-1, 2)
        if index is not None and len(logits) > 1:
            logits = F.embedding(index, logits)
        if not self.rules.missing_modality_is_a_vector:
            present = torch.stack([self.text_present, self.image_present], dim=1)
            present = present if index is None else present[index]
            present = present | ~present.any(dim=1, keepdim=True)
            logits = logits.masked_fill(~present, -torch.inf)
        # The published static score is a plain sum, which is 2 times the mean.
        return logits.softmax(dim=-1) * (2 if static else 1)

    def user_vectors(self, batch: Batch, vectors: Tensor, rows: Tensor) -> Tensor:
        """u [B,H], the output at the last interaction; rows [B,T] index the item vectors E [2,n,H]."""
        pair = zip((self.text_norm, self.image_norm), both_rows(vectors, rows), strict=True)
        tokens = torch.cat([norm_of_sum(norm, self.dropout, vector) for norm, vector in pair])
        D, real = self._gap_signals(batch)
        *below, top = cast("list[Layer]", list(self.layers))
        for layer in below:
            text, fused, D = layer(tokens, D, real)
            tokens = torch.cat([text, fused])
        return widened(top.at_last(tokens, D, real, batch.lengths - 1))

    def _gap_signals(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """D [2B,K,L] for the text and the image branch (their dropout differs), and the mask [2B,1,L]."""
        if not self.config.use_time:
            return None, None
        gaps, real = gap_inputs(batch.times, batch.lengths, self.rules, self.gap_norm.weight.dtype)
        gaps = torch.cat([gaps, gaps])
        real = None if real is None else torch.cat([real, real])
        D = self.gap_norm.of_gaps(gaps, self.gap_dropout, real)
        return D[:, None].expand(-1, self.config.heads, -1), None if real is None else real[:, None]
