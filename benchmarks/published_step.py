"""The training step as published, in plain torch: the reference for `benchmarks.training`.

It uses the full padded length, one branch after the other, segsum through repeat and cumsum, one scoring product per
modality, one sample at a time from a Dataset through a DataLoader without workers, float32, torch's own dropout, and
the summed gradients of 8 batches for one step of NAdam. It is written from the equations of arXiv 2506.02916 and shares
no computation with `mmm4rec`. It takes its weights under the same names, so that the losses of both can be compared. It
has one layer and the full, static loss with per-item vectors: the published fine-tuning with ID.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData

Sample = tuple[Tensor, Tensor, Tensor, Tensor]
"""Items [L], times [L], length and label. In a batch, each has a leading dimension B."""


class Prefixes(Dataset[Sample]):
    """The training examples, cut and padded one by one. If there is room, the times include the label's time."""

    def __init__(self, domain: DomainData, length: int) -> None:
        examples = domain.examples("training", length)
        self.length = length
        self.first, self.label = examples.first.tolist(), examples.label.tolist()
        self.items, self.times = domain.items, domain.times

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, example: int) -> Sample:
        label = self.label[example]
        start = max(self.first[example], label - self.length)
        items, times = torch.zeros(self.length, dtype=torch.int64), torch.zeros(self.length, dtype=torch.int64)
        items[: label - start] = self.items[start:label]
        timed = label + 1 if label - self.first[example] < self.length else label
        times[: timed - start] = self.times[start:timed]
        return items, times, torch.tensor(label - start), self.items[label]


def loader(domain: DomainData, length: int, batch_size: int, seed: int) -> "DataLoader[Sample]":
    """Batches in random order."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(Prefixes(domain, length), batch_size=batch_size, shuffle=True, generator=generator)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """The published optimiser."""
    return torch.optim.NAdam(model.parameters(), lr=1e-4, weight_decay=0.005)


def step(model: "PublishedModel", optimiser: torch.optim.Optimizer, batches: Iterable[Sample]) -> float:
    """One optimiser step with the summed gradients of `batches`. Returns the sum of their losses."""
    total = 0.0
    for batch in batches:
        loss = model(*batch)
        loss.backward()
        total += loss.item()
    optimiser.step()
    optimiser.zero_grad()
    return total


def segsum(v: Tensor) -> Tensor:
    """[..., T] -> [..., T, T]."""
    length = v.shape[-1]
    lower = torch.ones(length, length, dtype=torch.bool, device=v.device).tril(-1)
    repeated = v[..., None].repeat(*[1] * v.dim(), length).masked_fill(~lower, 0)
    return repeated.cumsum(-2).masked_fill(~torch.ones_like(lower).tril(), -torch.inf)


def conv(channels: int, width: int) -> nn.Conv1d:
    """A depthwise convolution; `past` cuts its output to the causal part."""
    return nn.Conv1d(channels, channels, width, groups=channels, padding=width - 1)


def past(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """silu(conv) of x [B,T,C], causal."""
    return F.silu(conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))


class StepScale(nn.Module):
    """The factor of dt from the gap signal D [B,K,L]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout_time)
        self.mlp_in, self.mlp_out = (nn.Linear(config.length, config.length) for _ in range(2))
        self.conv_in, self.conv_out = (conv(config.heads, config.conv_width) for _ in range(2))

    def forward(self, D: Tensor) -> Tensor:
        """[B,K,L] -> [B,K,L]."""
        s = F.tanhshrink(self.mlp_out(F.silu(self.mlp_in(self.dropout(D)))))
        return past(self.conv_out, past(self.conv_in, (s * D).transpose(1, 2))).transpose(1, 2)


class GapGate(nn.Module):
    """The gap signal for the next block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout_time)
        self.linear = nn.Linear(config.length, 1)
        self.norm = nn.LayerNorm(config.length, eps=config.norm_eps)

    def forward(self, D: Tensor, a: Tensor) -> Tensor:
        """Two [B,K,L] -> [B,K,L]."""
        gate = torch.sigmoid(self.linear(self.dropout(D)))
        return self.norm(gate * D + (1 - gate) * a)


class StateSpace(nn.Module):
    """Steps, SSD, skip connection, gate, norm, output map."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups = config.heads, config.group_count
        self.A_log, self.dt_bias, self.skip = (nn.Parameter(torch.zeros(self.heads)) for _ in range(3))
        self.norm = nn.RMSNorm(config.inner_width, eps=1e-12)
        self.out = nn.Linear(config.inner_width, config.hidden)

    def forward(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """As `mmm4rec.model.mmm4rec.StateSpace`."""
        delta = F.softplus(dt * a.transpose(1, 2) + self.dt_bias)
        x = x.unflatten(-1, (self.heads, -1)) * delta[..., None]
        B, C = (m.unflatten(-1, (self.groups, -1)).repeat_interleave(self.heads // self.groups, 2) for m in (B, C))
        decay = segsum((delta * -torch.exp(self.A_log)).transpose(1, 2)).exp()
        weights = torch.einsum("bihs,bjhs->bhij", C, B) * decay
        y = torch.einsum("bhij,bjhp->bihp", weights, x) + self.skip[:, None] * x
        return self.out(self.norm(y.flatten(2) * F.silu(z)))


class TimeAwareSSD(nn.Module):
    """The block of the text and of the image branch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, grouped = config.inner_width, config.group_count * config.state
        self.widths, self.split = [inner, inner + 2 * grouped, config.heads], [inner, grouped, grouped]
        self.inputs = nn.Linear(config.hidden, sum(self.widths))
        self.conv = conv(self.widths[1], config.conv_width)
        self.state_space, self.step_scale, self.gap_gate = StateSpace(config), StepScale(config), GapGate(config)

    def forward(self, u: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        """[B,L,H], [B,K,L] -> [B,L,H], [B,K,L]."""
        z, xBC, dt = torch.split(self.inputs(u), self.widths, dim=-1)
        x, B, C = torch.split(past(self.conv, xBC), self.split, dim=-1)
        a = self.step_scale(D)
        return self.state_space(x, B, C, dt, z, a), self.gap_gate(D, a)


class CrossSSD(nn.Module):
    """The block that joins the branches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, grouped = config.inner_width, config.group_count * config.state
        self.widths, self.split = [inner + grouped, config.heads], [inner, grouped]
        self.content = nn.Linear(config.hidden, sum(self.widths))
        self.query, self.gate = nn.Linear(config.hidden, grouped), nn.Linear(config.hidden, inner)
        self.content_conv, self.query_conv = (conv(n, config.conv_width) for n in (self.widths[0], grouped))
        self.state_space, self.step_scale = StateSpace(config), StepScale(config)

    def forward(self, text: Tensor, image: Tensor, D: Tensor) -> Tensor:
        """[B,L,H] twice, [B,K,L] -> [B,L,H]."""
        xB, dt = torch.split(self.content(text), self.widths, dim=-1)
        x, B = torch.split(past(self.content_conv, xB), self.split, dim=-1)
        C = past(self.query_conv, self.query(image))
        return self.state_space(x, B, C, dt, self.gate(image + text), self.step_scale(D))


class FeedForward(nn.Module):
    """LN(dropout(W2 dropout(hardswish(W1 x))) + x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(config.hidden, config.inner), nn.Linear(config.inner, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B,L,H] -> [B,L,H]."""
        return self.norm(self.dropout(self.narrow(self.dropout(F.hardswish(self.widen(x))))) + x)


class ComplexLinear(nn.Module):
    """A complex linear map as four real products."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.real, self.imag = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W], complex."""
        return torch.complex(self.real(x.real) - self.imag(x.imag), self.imag(x.real) + self.real(x.imag))


class Fourier(nn.Module):
    """Joins the gap signals of the branches."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.text, self.image, self.cross = (ComplexLinear(length // 2 + 1) for _ in range(3))

    def forward(self, D_text: Tensor, D_image: Tensor) -> Tensor:
        """Two [B,K,L] -> [B,K,L]."""
        V, T = torch.fft.rfft(D_image, norm="ortho"), torch.fft.rfft(D_text, norm="ortho")
        return torch.fft.irfft(self.cross(self.image(V) * V + self.text(T) * T), n=self.length, norm="ortho")


class Layer(nn.Module):
    """The text branch, the image branch, then the cross block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.branches, self.cross, self.fourier = TimeAwareSSD(config), CrossSSD(config), Fourier(config.length)
        self.text_norm, self.image_norm, self.cross_norm = (
            nn.LayerNorm(config.hidden, eps=config.norm_eps) for _ in range(3)
        )
        self.text_ffn, self.cross_ffn = FeedForward(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_hidden)

    def forward(self, text: Tensor, image: Tensor, D_text: Tensor, D_image: Tensor) -> Tensor:
        """[B,L,H] twice, [B,K,L] twice -> the fused [B,L,H]."""
        out, D_text = self.branches(text, D_text)
        text = self.text_ffn(self.text_norm(self.dropout(out) + text))
        out, D_image = self.branches(image, D_image)
        image = self.image_norm(self.dropout(out) + image)
        cross = self.cross(text, image, self.fourier(D_text, D_image))
        return self.cross_ffn(self.cross_norm(self.dropout(cross) + image + text))


class PublishedModel(nn.Module):
    """The whole model with its loss."""

    text_features: Tensor
    image_features: Tensor

    def __init__(self, config: ModelConfig, domain: DomainData, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        assert config.layers == 1
        assert config.fusion == "static"
        assert config.with_id
        assert config.use_time
        assert config.use_ffn
        self.config = config
        self.register_buffer("text_features", domain.text.vectors, persistent=False)
        self.register_buffer("image_features", domain.image.vectors, persistent=False)
        self.text_adapter, self.image_adapter = (
            nn.Linear(features.width, config.hidden) for features in (domain.text, domain.image)
        )
        self.text_norm, self.image_norm = (nn.LayerNorm(config.hidden, eps=config.norm_eps) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout_embedding)
        self.text_item, self.image_item = (
            nn.Parameter(torch.zeros(domain.item_count + 1, config.hidden)) for _ in range(2)
        )
        self.gap_norm = nn.LayerNorm(config.length, eps=config.norm_eps)
        self.gap_dropout = nn.Dropout(config.dropout_time)
        self.layers = nn.ModuleList([Layer(config)])
        self.load_state_dict(weights)

    def forward(self, items: Tensor, times: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        E_text = self.text_adapter(self.text_features) + self.text_item
        E_image = self.image_adapter(self.image_features) + self.image_item
        text = self.text_norm(self.dropout(E_text[items]))
        image = self.image_norm(self.dropout(E_image[items]))
        gaps = torch.diff(times, dim=1, prepend=times[:, :1]).to(self.gap_norm.weight.dtype)
        D_text, D_image = (
            self.gap_norm(self.gap_dropout(gaps))[:, None].repeat(1, self.config.heads, 1) for _ in range(2)
        )
        y = self.layers[0](text, image, D_text, D_image)
        user = y[torch.arange(len(y), device=y.device), lengths - 1]
        scores = user @ F.normalize(E_text, dim=-1).T + user @ F.normalize(E_image, dim=-1).T
        return F.cross_entropy(scores / self.config.temperature, labels)
