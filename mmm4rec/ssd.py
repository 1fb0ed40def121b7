"""State-space duality: the recurrence h_t = exp(A delta_t) h_{t-1} + B_t (delta_t x_t), y_t = C_t h_t, and
its forms.

`sequential` is the recurrence itself in float64, the reference the other forms are held to. `quadratic` is
the same map as one masked matrix product (Dao and Gu 2024, arXiv 2405.21060), the fastest while sequences are
short. `choose` picks one and says why. The skip connection is not computed here.

Shapes, for all forms: x [B,T,K,P], delta [B,T,K], A [K] (negative), B and C [B,T,G,S], result [B,T,K,P]; head
k uses group k // (K/G).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmm4rec.config import SSDForm


@dataclass(frozen=True)
class Choice:
    """A form of the computation and the reason for it."""

    form: SSDForm
    reason: str


def choose(length: int, override: SSDForm = "auto") -> Choice:
    """The form for sequences of at most `length` positions."""
    if override != "auto":
        return Choice(override, f"ssd_form is set to {override}")
    return Choice("quadratic", f"with {length} positions one masked matrix product per head beats a scan")


def ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, form: SSDForm = "auto") -> Tensor:
    """y [B,T,K,P] by the form named, or chosen where it is `auto`."""
    if choose(x.shape[1], form).form == "sequential":
        return sequential(x, delta, A, B, C)
    return quadratic(x, delta, A, B, C)


def sequential(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence, one position after the other, in float64; the result has the type of x."""
    batch, length, heads, width = x.shape
    per_group = heads // B.shape[2]
    decay = torch.exp(delta.double() * A.double())
    B, C = (m.double().repeat_interleave(per_group, dim=2) for m in (B, C))
    inputs = delta.double()[..., None] * x.double()
    state = inputs.new_zeros(batch, heads, width, B.shape[3])
    outputs = []
    for t in range(length):
        state = decay[:, t, :, None, None] * state + inputs[:, t, :, :, None] * B[:, t, :, None, :]
        outputs.append((state * C[:, t, :, None, :]).sum(-1))
    return torch.stack(outputs, dim=1).to(x.dtype)


def quadratic(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """((C B^T) o exp(segsum(A delta))) (delta x), one [T,T] matrix per head."""
    batch, length, heads, _ = x.shape
    groups = B.shape[2]
    with torch.autocast(x.device.type, enabled=False):
        decay = segsum(widened(delta).transpose(1, 2) * A[:, None]).exp()
    similarity = C.transpose(1, 2) @ B.permute(0, 2, 3, 1)
    weights = similarity[:, :, None] * decay.view(batch, groups, heads // groups, length, length)
    inputs = (delta[..., None] * x).transpose(1, 2)
    mixed = weights.view(batch, heads, length, length).to(inputs.dtype) @ inputs
    return mixed.transpose(1, 2)


def widened(x: Tensor) -> Tensor:
    """`x` in float32 where it is narrower (autocast), for sums and exponentials that bf16 would spoil."""
    return x.float() if x.dtype.itemsize < 4 else x


def segsum(v: Tensor) -> Tensor:
    """[..., T] -> [..., T, T]: v[j+1] + ... + v[i] at (i, j) for j <= i, -inf above the diagonal.

    Differences of one cumulative sum. The upper triangle is masked before anyone takes its exponential: there
    the differences are positive and could overflow, which would turn the gradient into NaN.
    """
    total = v.cumsum(-1)
    length = v.shape[-1]
    above = torch.ones(length, length, dtype=torch.bool, device=v.device).triu(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(above, -torch.inf)
