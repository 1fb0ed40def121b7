"""Item-kNN against a case counted by hand."""

from collections.abc import Callable

import pytest
import torch

from mmm4rec.baselines import item_knn, popularity
from mmm4rec.baselines.config import ItemKNNConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.evaluation import ranking
from mmm4rec.evaluation.results import Ranking

ITEMS = ["a", "b", "c", "d", "e"]


def domain_of(*histories: list[int]) -> DomainData:
    """Users whose last two items are held out."""
    lengths = torch.tensor([len(history) for history in histories])
    features = Features(torch.zeros(6, 1), torch.zeros(6, dtype=torch.bool))
    items = torch.cat([torch.tensor(history) for history in histories])
    return DomainData(
        "Toys", [f"u{n}" for n in range(len(histories))], ITEMS,
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), items,
        torch.zeros(int(lengths.sum()), dtype=torch.int64), lengths - 2, torch.ones_like(lengths), features, features,
    )  # fmt: skip


@pytest.fixture
def counted() -> DomainData:
    # In training: {a b c}, {a b}, {b c}, {a} (twice), {d}.
    return domain_of([1, 2, 3, 2, 4], [1, 2, 3, 4], [2, 3, 1, 5], [1, 1, 2, 3], [4, 5, 5])


def ranked(domain: DomainData, **settings: int) -> Ranking:
    """The test labels, with the neighbours that the published settings ask for."""
    config = ItemKNNConfig(**settings)
    return item_knn.rank_labels(domain, "test", item_knn.neighbours(domain, config.neighbours), config.length)


def test_similarities_are_cosines_of_users(counted: DomainData) -> None:
    """Users: a 3, b 3, c 2, d 1, e 0; in common: ab 2, ac 1, bc 2. What is held out is not counted."""
    known = item_knn.neighbours(counted, 2)
    assert known.items.tolist() == [[0, 0], [2, 3], [3, 1], [2, 1], [0, 0], [0, 0]]
    ab, ac, bc = 2 / 3, 1 / 6**0.5, 2 / 6**0.5
    expected = torch.tensor([[0, 0], [ab, ac], [bc, ab], [bc, ac], [0, 0], [0, 0]])
    torch.testing.assert_close(known.similarities, expected)
    assert item_knn.neighbours(counted, 1).items[:, 0].tolist() == [0, 2, 3, 2, 0, 0]


def test_ranks_are_those_of_summed_similarities(counted: DomainData) -> None:
    """Test labels d, d, e, c, e. Scores of (a, b, c, d, e) from the histories before them:

    {b c a}: (ab+ac, ab+bc, ac+bc, 0, 0); the same twice; {a b}: (ab, ab, ac+bc, 0, 0); {d e}: all 0.
    """
    ranking = ranked(counted)
    assert ranking.ranks.tolist() == [4.5, 4.5, 4.5, 1, 3]
    # Only the last interaction is looked at: b, c, a, b, e.
    ranking = ranked(counted, length=1)
    assert ranking.ranks.tolist() == [4, 4, 4, 1, 3]
    assert ranking.label_counts.tolist() == counted.training_counts()[[4, 4, 5, 3, 5]].tolist()


def test_an_item_speaks_once(counted: DomainData) -> None:
    """However often a user has had it: histories {a b c}, {a b c}, {a b c}, {a b}, {d e}."""
    found = item_knn._history(counted.examples("test", 20), torch.arange(5))
    assert [sorted(row[row > 0].tolist()) for row in found] == [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2], [4, 5]]


def test_blocks_change_nothing(make_domain: Callable[..., DomainData], monkeypatch: pytest.MonkeyPatch) -> None:
    domain = make_domain(users=80, items=40, seed=1)
    whole = ranked(domain).ranks
    monkeypatch.setattr(item_knn, "HELD", 7 * 80)
    monkeypatch.setitem(ranking.ITEM_BLOCK, "cpu", 9)
    torch.testing.assert_close(ranked(domain).ranks, whole)
    found = ranked(domain).metrics()
    assert found.value("NDCG@10") > popularity.evaluate(domain, "test").value("NDCG@10")
