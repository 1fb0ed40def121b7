"""Norms with what comes before them: dropout and sums, or a gate. On a GPU with triton, each is one kernel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.model.dropout import Dropout
from mmm4rec.model.kernels import fused_norms_missing


class RMSNorm(nn.RMSNorm):
    """torch's norm, with its weight in the type of the input: under autocast, only then is it a single kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def norm_of_sum(norm: nn.LayerNorm, dropout: Dropout, x: Tensor, *others: Tensor) -> Tensor:
    """norm(dropout(x) + the sum of others); all [..., H]."""
    if fused_norms_missing(x.device, x.dtype, x.shape[-1]) is not None:
        total = dropout(x)
        for other in others:
            total = total + other
        result: Tensor = norm(total)
        return result
    from mmm4rec.model.fused.norm import dropped_norm

    return dropped_norm(x, others, norm.weight, norm.bias, norm.eps, *dropout.drawn(x.device), activation_type(x))


def gated_norm(norm: RMSNorm, y: Tensor, z: Tensor) -> Tensor:
    """norm(y * silu(z)); both [..., W]."""
    if fused_norms_missing(y.device, y.dtype, y.shape[-1]) is not None:
        result: Tensor = norm(y * F.silu(z))
        return result
    from mmm4rec.model.fused import norm as fused_norm

    return fused_norm.gated_norm(y, z, norm.weight, norm.eps or 0.0, activation_type(y))


def activation_type(x: Tensor) -> torch.dtype:
    """The type of activations: that of autocast, or else that of x."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
