"""Popularity: the score of an item is the number of its training interactions, the same for every user."""

import torch

from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Split
from mmm4rec.evaluation.ranking import ranking, ranks_by_counting
from mmm4rec.evaluation.results import Metrics, Ranking
from mmm4rec.evaluation.top_k import TopKCounts


def rank_labels(domain: DomainData, split: Split, length: int = 20) -> Ranking:
    """The ranks of the labels of `split`, for the same users and candidates as in the model's evaluation."""
    counts = domain.training_counts().float()
    counts[0] = -torch.inf
    examples = domain.examples(split, length)
    top_k_counts = TopKCounts(len(counts), counts.device)
    ranks = ranks_by_counting(
        lambda users, low, high: counts[low:high].expand(len(users), -1),
        examples.items[examples.label],
        len(counts),
        top_k_counts=top_k_counts,
    )
    return ranking(domain, examples, ranks, top_k_counts)


def evaluate(domain: DomainData, split: Split, length: int = 20) -> Metrics:
    """The metrics of `split` by full ranking."""
    return rank_labels(domain, split, length).metrics()
