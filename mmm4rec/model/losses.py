"""The two training losses. The scores are already divided by the temperature."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmm4rec.devices import on_device
from mmm4rec.model.compat import Rules
from mmm4rec.model.ssd import widened

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 24}
"""The number of scores in memory at a time. On a CPU: 16 MiB, which fits the cache and which the allocator reuses."""


def full_cross_entropy(users: Tensor, table: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """Mean cross-entropy of labels [B] over all items: users [B,H], table [n,H] of `score_vectors`.

    The scores [B,n] are never in memory all at once: each block of users is turned into its gradient in place.
    Padding (item 0) is not a candidate, except in published mode.
    """
    return cast(Tensor, _FullCrossEntropy.apply(users, table, labels, rules.padding_is_candidate))  # type: ignore[no-untyped-call]


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, table: Tensor, labels: Tensor, padding_is_candidate: bool) -> Tensor:
        to_users, to_table = torch.empty_like(users), torch.zeros_like(table)
        losses = []
        rows = max(1, on_device(users.device, BLOCK) // len(table))
        for some, label, gradient in zip(
            *(torch.split(whole, rows) for whole in (users, labels, to_users)), strict=True
        ):
            scores = widened(some @ table.T)
            if not padding_is_candidate:
                scores[:, 0].fill_(-torch.inf)
            chances = F.log_softmax(scores, dim=1)
            losses.append(-chances.gather(1, label[:, None]).sum())
            chances.exp_()
            chances.scatter_add_(1, label[:, None], chances.new_full((len(label), 1), -1.0))
            chances = chances.to(table.dtype)
            gradient.copy_(chances @ table)
            to_table += chances.T @ some
        ctx.save_for_backward(to_users, to_table)
        ctx.count = len(users)
        return torch.stack(losses).sum() / len(users)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_users, to_table = ctx.saved_tensors
        scale = gradient / ctx.count  # of the mean, here because these are much smaller than the scores
        return to_users * scale, to_table * scale, None, None


def in_batch_cross_entropy(scores: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """In-batch softmax: cross-entropy over the labels of the batch, from scores [B,B] of user i and label j.

    Another example with the same label is not a negative (in published mode it is one).
    """
    if not rules.repeated_labels_are_negatives:
        repeated = labels[:, None] == labels
        repeated.fill_diagonal_(False)
        scores = scores.masked_fill(repeated, -torch.inf)
    return F.cross_entropy(widened(scores), torch.arange(len(labels), device=labels.device))
