"""Dropout with a mask that is cheap on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 1 << 16


class Dropout(nn.Module):
    """Inverted dropout: a share `p` of the elements becomes 0, and the others are divided by the share that is kept.

    torch draws a mask element by element, which on a CPU costs as much as the matrix products around it. Here, each
    element uses 16 random bits of torch's generator. Therefore `p` is exact to 1/131,072. The kept elements are scaled
    by the share that is really kept, so the expectation is exact. Other devices use torch's own dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.kept = max(1, round((1 - p) * STEPS))

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...], the input itself outside training."""
        if not self.training or self.kept == STEPS:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.empty(x.shape, dtype=x.dtype)
        torch.lt(bits, self.kept - STEPS // 2, out=mask)
        return x * mask.mul_(STEPS / self.kept)

    def drawn(self, device: torch.device) -> tuple[float, Tensor | None]:
        """For a kernel that drops elements itself: their share, and a seed [1] int64 from torch's generator (None if
        nothing is dropped). A recording of the kernel draws a new seed each time."""
        if not self.training or self.p == 0:
            return 0.0, None
        return self.p, torch.empty(1, dtype=torch.int64, device=device).random_()

    def extra_repr(self) -> str:
        """The probability, for people."""
        return f"p={self.p}"
