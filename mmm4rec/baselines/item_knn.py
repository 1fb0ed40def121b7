"""Item-kNN: an item supports items that the same users had in training (Sarwar et al. 2001; RecBole's `ItemKNN`).

The similarity of two items is the cosine of their users, |U_i and U_j| / sqrt(|U_i| |U_j|). Each item keeps its k
largest similarities. The score of an item is the sum of its similarities to the user's last L interactions, each item
once. Nothing is trained, and only training interactions are counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmm4rec.baselines.config import ItemKNNConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Examples, Split
from mmm4rec.evaluation.ranking import ranking, ranks_by_counting
from mmm4rec.evaluation.results import Ranking
from mmm4rec.evaluation.top_k import TopKCounts

HELD = 1 << 24
"""Users times items, or items times items, in memory at the same time: 64 MiB."""


@dataclass(frozen=True)
class Neighbours:
    """The k most similar items of each item: the most similar first, then by lowest index."""

    items: Tensor
    """[N+1,k] int64; 0 if there are fewer neighbours."""
    similarities: Tensor
    """[N+1,k] float32; 0 where there is no neighbour."""


def neighbours(domain: DomainData, k: int) -> Neighbours:
    """Compute neighbours from the training interactions of all users, each item once per user."""
    rows = domain.item_count + 1
    pairs = torch.unique(domain.trained(), dim=1)
    size = (domain.user_count, rows)
    bought = torch.sparse_coo_tensor(pairs, torch.ones(pairs.shape[1]), size, check_invariants=True).coalesce()
    counts = torch.bincount(pairs[1], minlength=rows).float()
    k = min(k, rows)
    found, values = torch.zeros(rows, k, dtype=torch.int64), torch.zeros(rows, k)
    for block in torch.split(torch.arange(rows), max(1, HELD // max(rows, domain.user_count))):
        mine = bought.index_select(1, block).to_dense()  # [U,n]
        common = torch.sparse.mm(bought.t(), mine).T  # [n,N+1]
        cosine = common / (counts[block, None] * counts).sqrt().clamp(min=1)
        cosine[torch.arange(len(block)), block] = 0  # an item is not its own neighbour
        # A stable sort, so that the choice among equal similarities does not depend on the machine.
        ordered = cosine.sort(dim=1, descending=True, stable=True)
        values[block] = ordered.values[:, :k]
        found[block] = torch.where(values[block] > 0, ordered.indices[:, :k], 0)
    return Neighbours(found, values)


def rank(domain: DomainData, config: ItemKNNConfig) -> dict[Split, Ranking]:
    """The ranks of the labels of validation and test."""
    known = neighbours(domain, config.neighbours)
    return {split: rank_labels(domain, split, known, config.length) for split in ("validation", "test")}


def rank_labels(domain: DomainData, split: Split, known: Neighbours, length: int) -> Ranking:
    """The ranks of the labels of `split`, for the same users and candidates as in the model's evaluation."""
    examples = domain.examples(split, length)

    def score(users: Tensor, low: int, high: int) -> Tensor:
        return _scores(known, _history(examples, users), low, high)

    top_k_counts = TopKCounts(domain.item_count + 1, examples.items.device)
    ranks = ranks_by_counting(score, examples.items[examples.label], domain.item_count + 1, top_k_counts=top_k_counts)
    return ranking(domain, examples, ranks, top_k_counts)


def _history(examples: Examples, users: Tensor) -> Tensor:
    """[B,L] items of the examples `users`, each item once; 0 elsewhere."""
    items = examples.batch(users, examples.length).items.sort(dim=1).values
    items[:, 1:][items[:, 1:] == items[:, :-1]] = 0
    return items


def _scores(known: Neighbours, history: Tensor, low: int, high: int) -> Tensor:
    """[B,high-low] scores of the items from `low` on, for histories [B,L]. Padding is not a candidate."""
    items, values = known.items[history].flatten(1), known.similarities[history].flatten(1)
    inside = (items >= low) & (items < high) & (items > 0)
    scores = torch.zeros(len(history), high - low)
    scores.scatter_add_(1, (items - low).clamp(0, high - low - 1), values * inside)
    if low == 0:
        scores[:, 0] = -torch.inf
    return scores
