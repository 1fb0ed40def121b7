"""Popularity: every item scores the number of its training interactions, the same for every user."""

import torch

from mmm4rec.data import DomainData, Split
from mmm4rec.evaluation import Metrics, metrics_of_ranks, ranks_by_counting


def evaluate(domain: DomainData, split: Split, length: int = 20) -> Metrics:
    """HR and NDCG of `split` by full ranking, over the users and candidates of the model's evaluation."""
    counts = domain.training_counts().float()
    counts[0] = -torch.inf
    examples = domain.examples(split, length)
    ranks = ranks_by_counting(
        lambda users, low, high: counts[low:high].expand(len(users), -1),
        examples.items[examples.label],
        len(counts),
    )
    return metrics_of_ranks(ranks)
