"""The two training losses. Scores are divided by the temperature already."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmm4rec.model.compat import Rules
from mmm4rec.model.ssd import widened

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Scores held at a time: on a CPU 16 MiB, which stay in the cache and in the allocator's hands."""


def full_cross_entropy(users: Tensor, table: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """Mean cross-entropy of labels [B] over all items: users [B,H], table [n,H] of `score_vectors`.

    The scores [B,n] are never held at once: block by block of users they turn into their own gradient.
    Padding (item 0) is no candidate, except in published mode.
    """
    return cast(Tensor, _FullCrossEntropy.apply(users, table, labels, rules.padding_is_candidate))  # type: ignore[no-untyped-call]


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, table: Tensor, labels: Tensor, padding_is_candidate: bool) -> Tensor:
        to_users, to_table = torch.empty_like(users), torch.zeros_like(table)
        losses = []
        rows = max(1, BLOCK.get(users.device.type, BLOCK["cuda"]) // len(table))
        for some, label, gradient in zip(
            *(torch.split(whole, rows) for whole in (users, labels, to_users)), strict=True
        ):
            scores = widened(some @ table.T)
            if not padding_is_candidate:
                scores[:, 0] = -torch.inf
            chances = F.log_softmax(scores, dim=1)
            losses.append(-chances.gather(1, label[:, None]).sum())
            chances.exp_()
            chances.scatter_add_(1, label[:, None], chances.new_full((len(label), 1), -1.0))
            chances = chances.div_(len(users)).to(table.dtype)
            gradient.copy_(chances @ table)
            to_table += chances.T @ some
        ctx.save_for_backward(to_users, to_table)
        return torch.stack(losses).sum() / len(users)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_users, to_table = ctx.saved_tensors
        return to_users * gradient, to_table * gradient, None, None


def in_batch_cross_entropy(scores: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """Cross-entropy over the labels of the batch: scores [B,B] of user i and the label of example j.

    Where another example has the same label, it is no negative (published: it is one).
    """
    if not rules.repeated_labels_are_negatives:
        repeated = labels[:, None] == labels
        repeated.fill_diagonal_(False)
        scores = scores.masked_fill(repeated, -torch.inf)
    return F.cross_entropy(widened(scores), torch.arange(len(labels), device=labels.device))
