"""The time path: from the times of interactions to the step sizes of the SSM.

A gap signal D [B,K,L] (K heads) accompanies the tokens. `StepScale` computes the factor `a` of every step from it,
`GapGate` computes the D of the next block, and `FourierMixing` joins the signals of the two branches. The signal always
covers all L positions, because its linear maps and Fourier transforms are dense over them; it is very small.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmm4rec.model.compat import Rules
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.kernels import causal_conv, fused_time_missing
from mmm4rec.model.ssd import widened, without_autocast

SECONDS_PER_DAY = 86_400
SOFT_EPS = 1.0
"""The variance that `GapNorm` adds over real positions. With it, gaps that differ by less than a factor e are not
scaled up to unit variance, and a sequence of two keeps the size of its gap. Plain normalisation would keep only the
sign."""


def gap_inputs(
    times: Tensor, lengths: Tensor, rules: Rules, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor | None]:
    """Time since the previous interaction [B,L], and the mask [B,L] of real positions (None: all positions count).

    Published mode: seconds, also at the first padding position (0 - t_last). Default mode: log(1 + days) between real
    interactions, and 0 for the first interaction and for padding.
    """
    gaps = torch.diff(times, dim=1, prepend=times[:, :1])
    if rules.gaps_run_into_padding:
        return gaps.to(dtype), None
    real = torch.arange(times.shape[1], device=times.device) < lengths[:, None]
    return torch.log1p((gaps.clamp(min=0) * real).to(dtype) / SECONDS_PER_DAY), real


class GapNorm(nn.LayerNorm):
    """LayerNorm over the L positions. With a mask, it covers only the real positions and gives 0 elsewhere."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x [..., L], real [..., L] bool (broadcast) or None -> [..., L]."""
        if real is None:
            return super().forward(x)
        count = real.sum(-1, keepdim=True)
        centred = (x - (x * real).sum(-1, keepdim=True) / count) * real
        variance = centred.square().sum(-1, keepdim=True) / count
        return (centred * torch.rsqrt(variance + SOFT_EPS) * self.weight + self.bias) * real

    def of_gaps(self, gaps: Tensor, dropout: Dropout, real: Tensor | None) -> Tensor:
        """The norm of dropout(gaps), which need no gradient; gaps [N,L], real [N,L] or None -> [N,L]."""
        if fused_time_missing(gaps) is not None:
            return cast(Tensor, self(dropout(gaps), real))
        from mmm4rec.model.fused.gaps import gap_norm

        drawn = dropout.drawn(gaps.device)
        return gap_norm(gaps, _counted(real), self.weight, self.bias, self.added(real), *drawn)

    def added(self, real: Tensor | None) -> float:
        """What the norm adds to the variance."""
        return self.eps if real is None else SOFT_EPS


def _counted(real: Tensor | None) -> Tensor | None:
    """The number of real positions of each row: [..., L] bool -> [N]."""
    return None if real is None else real.sum(-1).flatten()


class CausalConv(nn.Conv1d):
    """Causal depthwise convolution over positions, which sees only the past; then SiLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, channels, width, groups=channels)
        self.bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,C] -> [B,T,C]."""
        if x.device.type == "cpu":
            weight, bias = self.weight[:, 0].to(x.dtype), self.bias.to(x.dtype)
            return F.silu(_ShiftedSum.apply(x, weight, bias))  # type: ignore[no-untyped-call]
        return causal_conv(x, self.weight, self.bias, silu=True)

    def at_last(self, x: Tensor, real: Tensor) -> Tensor:
        """The output [B,C] at the last of W positions x [B,W,C], W the width; `real` [B,W] says which exist."""
        weight = (self.weight[:, 0].T * real[..., None]).to(x.dtype)
        return F.silu((x * weight).sum(1) + self.bias.to(x.dtype))


class _ShiftedSum(torch.autograd.Function):
    """The depthwise convolution as one in-place multiply-add per tap, twice as fast as conv2d on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x [B,T,C], weight [C,W], bias [C] -> [B,T,C]."""
        ctx.save_for_backward(x, weight)
        taps, length = weight.T.contiguous().flip(0), x.shape[1]
        out = torch.addcmul(bias, x, taps[0])
        for back in range(1, min(len(taps), length)):
            out[:, back:].addcmul_(x[:, : length - back], taps[back])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps, length = weight.T.contiguous().flip(0), x.shape[1]
        to_x = gradient * taps[0]
        to_taps = torch.zeros_like(taps)
        to_taps[0] = (gradient * x).sum((0, 1))
        for back in range(1, min(len(taps), length)):
            later, earlier = gradient[:, back:], x[:, : length - back]
            to_x[:, : length - back].addcmul_(later, taps[back])
            to_taps[back] = (later * earlier).sum((0, 1))
        return to_x, to_taps.flip(0).T, gradient.sum((0, 1))


class StepScale(nn.Module):
    """The factor of dt: a = silu(conv(silu(conv(s * D)))), where s is a small MLP of D over the positions."""

    def __init__(self, length: int, heads: int, conv_width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.mlp_in = nn.Linear(length, length)
        self.mlp_out = nn.Linear(length, length)
        self.conv_in = CausalConv(heads, conv_width)
        self.conv_out = CausalConv(heads, conv_width)

    def reset_parameters(self, rules: Rules) -> None:
        """Initialise so that s = 1, and a = 1 where the gap signal is 0: plain Mamba, which the gaps then modulate.

        The published initialisation (weights with deviation 0.02) puts tanhshrink in its flat zero region: s is about
        1e-8, and neither s nor anything that depends on it learns.
        """
        if rules.dead_time_start:
            return
        for linear in (self.mlp_in, self.mlp_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        nn.init.constant_(self.mlp_out.bias, _inverse(lambda v: v - math.tanh(v), 1.0))
        for conv in (self.conv_in, self.conv_out):
            nn.init.normal_(conv.weight, std=0.02)
            conv.weight.data[..., -1] += 1  # the position itself
            conv.bias.data.zero_()
        self.conv_out.bias.data.fill_(_inverse(lambda v: v / (1 + math.exp(-v)), 1.0))

    def forward(self, D: Tensor) -> Tensor:
        """D [B,K,L] -> a [B,K,L]."""
        if fused_time_missing(D, self.conv_in.kernel_size[0]) is None:
            from mmm4rec.model.fused.time import step_scale

            (w_in, b_in), (w_out, b_out) = ((m.weight, m.bias) for m in (self.mlp_in, self.mlp_out))
            (c_in, d_in), (c_out, d_out) = ((m.weight[:, 0], m.bias) for m in (self.conv_in, self.conv_out))
            drawn = self.dropout.drawn(D.device)
            return step_scale(D, w_in, b_in, w_out, b_out, c_in, d_in, c_out, d_out, *drawn)
        s = F.tanhshrink(self.mlp_out(F.silu(self.mlp_in(self.dropout(D)))))
        a = (s * D).transpose(1, 2)
        return cast(Tensor, self.conv_out(self.conv_in(a))).transpose(1, 2)


class GapGate(nn.Module):
    """The gap signal of the next block: norm(g D + (1-g) a), g = sigmoid(w . D + b) per sample and head."""

    def __init__(self, length: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(length, 1)
        self.norm = GapNorm(length, eps=eps)

    def forward(self, D: Tensor, a: Tensor, real: Tensor | None) -> Tensor:
        """D, a [B,K,L], real [B,1,L] or None -> D' [B,K,L]."""
        if fused_time_missing(D) is None:
            from mmm4rec.model.fused.gaps import gap_gate

            weights = (self.linear.weight[0], self.linear.bias, self.norm.weight, self.norm.bias)
            drawn = self.dropout.drawn(D.device)
            return gap_gate(D, a, _counted(real), *weights, self.norm.added(real), *drawn)
        gate = torch.sigmoid(self.linear(self.dropout(D)))
        return cast(Tensor, self.norm(gate * D + (1 - gate) * a, real))


class ComplexLinear(nn.Module):
    """The weights of a complex linear map as two real ones: (Wr x_r + b_r - Wi x_i - b_i) + i (Wi x_r + b_i + Wr x_i +
    b_r). `FourierMixing` applies it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.real = nn.Linear(width, width)
        self.imag = nn.Linear(width, width)


class FourierMixing(nn.Module):
    """Joins the gap signals of text and image in the frequency domain: Wco(Wv(V) * V + Wt(T) * T).

    The signals are short, so the Fourier transforms and the complex maps are real matrix products: a complex number is
    two neighbouring real ones. Fewer and simpler kernels than complex operators need, which matters on a GPU.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        bins = length // 2 + 1
        self.text = ComplexLinear(bins)
        self.image = ComplexLinear(bins)
        self.cross = ComplexLinear(bins)

    def reset_parameters(self, rules: Rules) -> None:
        """Initialise as the mean of the two signals: Wt = Wv = 1 (by their bias), Wco = 1/2."""
        if rules.dead_time_start:
            return
        for gain in (self.text, self.image):
            # A bias b_r of the real map and b_i of the imaginary one add (b_r - b_i) + i (b_r + b_i).
            nn.init.constant_(gain.real.bias, 0.5)
            nn.init.constant_(gain.imag.bias, -0.5)
        self.cross.real.weight.data += 0.5 * torch.eye(self.cross.real.in_features)

    def forward(self, D: Tensor) -> Tensor:
        """D [2B,K,L], text then image -> [B,K,L]."""
        with without_autocast(D.device):
            D = widened(D)
            there, back = fourier_matrices(self.length, D.device, D.dtype)
            maps, offsets = self._as_real(D.device)
            signals = (D @ there).reshape(2, -1, there.shape[1])
            gains = torch.baddbmm(offsets[:2, None], signals, maps[:2])
            joined = torch.view_as_real((_complex(gains) * _complex(signals)).sum(0)).flatten(1)
            out = torch.addmm(offsets[2] @ back, joined, maps[2] @ back)
        return out.view(len(D) // 2, *D.shape[1:])

    def _as_real(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The three complex maps as real ones for row vectors: matrices [3,2W,2W] and offsets [3,2W]."""
        parts = [part for each in (self.text, self.image, self.cross) for part in (each.real, each.imag)]
        weights = torch.stack([part.weight for part in parts])
        biases = torch.stack([part.bias for part in parts])
        width = weights.shape[-1]
        turns, signs = _complex_units(device, weights.dtype)
        # [3,W in,W out,2 parts] @ [2 parts,4] -> [3,W in,W out,2 in,2 out]
        maps = (weights.view(3, 2, width, width).permute(0, 3, 2, 1) @ turns).view(3, width, width, 2, 2)
        offsets = biases.view(3, 2, width).transpose(1, 2) @ signs
        return maps.permute(0, 1, 3, 2, 4).reshape(3, 2 * width, 2 * width), offsets.reshape(3, 2 * width)


def _complex(x: Tensor) -> Tensor:
    """[..., 2W] -> [..., W] complex, without a copy."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


@functools.cache
@torch.inference_mode(False)  # the first caller may evaluate, and the next may train
def fourier_matrices(length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The orthonormal real Fourier transform of row vectors and its inverse, as matrices [L,2W] and [2W,L], W = L//2+1.

    They equal `torch.fft.rfft` and `irfft` with norm "ortho". Like `irfft`, the inverse ignores the imaginary parts
    that a real signal cannot have.
    """
    bins = length // 2 + 1
    angles = torch.arange(length, dtype=torch.float64)[:, None] * torch.arange(bins) * (2 * math.pi / length)
    there = torch.stack([angles.cos(), -angles.sin()], dim=-1) / math.sqrt(length)
    weight = torch.full((bins, 1), 2.0, dtype=torch.float64)
    single = [0, bins - 1] if length % 2 == 0 else [0]
    weight[single] = 1
    there[:, single, 1] = 0
    back = (there * weight).flatten(1).T.contiguous()
    return there.flatten(1).to(device, dtype), back.to(device, dtype)


@functools.cache
@torch.inference_mode(False)
def _complex_units(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """How the real and the imaginary weight enter the 2 x 2 blocks of a real map [2,4], and the biases [2,2]."""
    turns, signs = [[1, 0, 0, 1], [0, 1, -1, 0]], [[1, 1], [-1, 1]]
    return torch.tensor(turns, dtype=dtype, device=device), torch.tensor(signs, dtype=dtype, device=device)


def _inverse(f: Callable[[float], float], target: float) -> float:
    """The v >= 0 with f(v) = target, for an increasing f, by bisection."""
    low, high = 0.0, 16.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < target else (low, middle)
    return low
