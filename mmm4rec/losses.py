"""The two training losses. Scores come in divided by the temperature already."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.compat import Rules
from mmm4rec.ssd import widened


def full_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of labels [B] over all items, scores [B,n]; items at -inf are no candidates."""
    return F.cross_entropy(widened(scores), labels)


def in_batch_cross_entropy(scores: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """Cross-entropy over the labels of the batch: scores [B,B] of user i and the label of example j.

    Where another example has the same label, it is no negative (published: it is one).
    """
    if not rules.repeated_labels_are_negatives:
        repeated = labels[:, None] == labels
        repeated.fill_diagonal_(False)
        scores = scores.masked_fill(repeated, -torch.inf)
    return F.cross_entropy(widened(scores), torch.arange(len(labels), device=labels.device))
