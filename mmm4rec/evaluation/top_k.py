"""Counts how many users have an item in their top k, while blocks of scores are computed: it neither sorts all items of
a user nor computes a score twice.

**The same ranks as in the evaluation.** An item ranks at 1 + (items scored higher) + (others scored equal) / 2. So
items with equal scores are either all in a top k (if the middle of their places is k or better) or all outside it.
Therefore the 2k best items of a user are enough: if equal scores reach place 2k, their middle is beyond k, wherever
they begin. It does not matter which of these items are kept.
"""

import torch
from torch import Tensor

from mmm4rec.metrics import of_lists


class Best:
    """The best candidates of some users [B] so far."""

    def __init__(self, users: int, places: int, device: torch.device) -> None:
        self.scores = torch.full((users, places), -torch.inf, device=device)
        """[B,places], descending; -inf if there are fewer candidates."""
        self.items = torch.zeros((users, places), dtype=torch.int64, device=device)

    def see(self, scores: Tensor, first: int) -> None:
        """Add the scores [B,n] of the items from `first` on."""
        places = self.scores.shape[1]
        # After some blocks, few scores are better than the worst one kept. Picking only these is several times faster.
        better = int((scores > self.scores[:, -1:]).sum(1, dtype=torch.int32).max())
        if not better:
            return
        values, items = scores.topk(min(better, places), sorted=False)
        self.scores, chosen = torch.cat([self.scores, values], dim=1).topk(places)
        self.items = torch.cat([self.items, items + first], dim=1).gather(1, chosen)


class TopKCounts:
    """For each item, the number of users with it in their top k, for every k of a metric of lists."""

    def __init__(self, rows: int, device: torch.device) -> None:
        """For the items 0..rows-1, where 0 is padding."""
        self.device = device
        self.cutoffs = sorted({k for metric in of_lists() for k in metric.cutoffs})
        self.counts = torch.zeros((len(self.cutoffs), rows), dtype=torch.int64, device=device)

    def best(self, users: int) -> Best:
        """An object that must be given all scores of this number of users."""
        return Best(users, 2 * max(self.cutoffs, default=1), self.device)

    def add(self, best: Best) -> None:
        """Count the lists of users whose scores are complete."""
        rising = -best.scores
        higher = torch.searchsorted(rising, rising)
        at_least = torch.searchsorted(rising, rising, right=True)
        ranks = (1 + higher + at_least).double() / 2
        candidates = best.scores > -torch.inf
        for k, counts in zip(self.cutoffs, self.counts, strict=True):
            counts += torch.bincount(best.items[candidates & (ranks <= k)], minlength=len(counts))

    def by_cutoff(self) -> dict[int, Tensor]:
        """[N] int64 on the CPU, by k. Padding is not an item."""
        return {k: counts[1:].cpu() for k, counts in zip(self.cutoffs, self.counts, strict=True)}
