"""The metrics, held to what anybody would write down: every item ranked by itself, lists as sets."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmm4rec.baselines import item_knn, popularity
from mmm4rec.comparison.tables import gains
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.errors import ConfigError
from mmm4rec.evaluation import ranking as evaluation
from mmm4rec.evaluation.ranking import ranks_by_counting
from mmm4rec.evaluation.results import metrics_of_ranks
from mmm4rec.evaluation.top_k import TopKCounts
from mmm4rec.metrics import CUTOFFS, METRICS, ListMetric, column, criteria, figures, of_lists
from mmm4rec.model.mmm4rec import MMM4Rec

CPU = torch.device("cpu")


def ranks_of_all(scores: list[float]) -> list[float]:
    """The rank of every item: the middle of the places of those with its score; infinite if it is no candidate."""
    counts = Counter(score for score in scores if score > -float("inf"))
    middle, place = {}, 1
    for score in sorted(counts, reverse=True):
        middle[score] = place + (counts[score] - 1) / 2
        place += counts[score]
    return [middle.get(score, float("inf")) for score in scores]


def counted(table: torch.Tensor, labels: torch.Tensor, block: int | None = None) -> tuple[torch.Tensor, TopKCounts]:
    """Ranks and lists of a table of scores."""
    top_k_counts = TopKCounts(table.shape[1], CPU)
    found = ranks_by_counting(
        lambda rows, low, high: table[rows, low:high],
        labels,
        table.shape[1],
        item_block=block,
        top_k_counts=top_k_counts,
    )
    return found, top_k_counts


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(2, 150),
    st.integers(0, 2**16),
    st.sampled_from([2, 30, 1000]),
    st.sampled_from([1, 3, 40, 10**6]),
    st.booleans(),
)
def test_mrr_and_coverage_of_any_scores(
    users: int, rows: int, seed: int, block: int, different: int, padded: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    table = torch.randint(0, different, (users, rows), generator=random).float()
    labels = torch.randint(1, rows, (users,), generator=random)
    if padded:  # as a rule; in published mode, padding takes a place in the lists
        table[:, 0] = -torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(evaluation.USER_BLOCK, "cpu", 2)
        ranks, top_k_counts = counted(table, labels, block)
    found, by_hand = metrics_of_ranks(ranks), [ranks_of_all(row) for row in table.tolist()]
    for k in CUTOFFS:
        of_labels = [row[label] for row, label in zip(by_hand, labels.tolist(), strict=True)]
        assert found.value(f"MRR@{k}") == pytest.approx(np.mean([(rank <= k) / rank for rank in of_labels]))
        lists = [{item for item, rank in enumerate(row) if rank <= k and item > 0} for row in by_hand]
        assert top_k_counts.by_cutoff()[k].tolist() == [sum(item in one for one in lists) for item in range(1, rows)]
        (coverage,) = of_lists()
        assert coverage.value(top_k_counts.by_cutoff()[k]) == len(set().union(*lists)) / (rows - 1)


@pytest.mark.parametrize(("items", "coverage"), [(19, [1, 1, 1]), (20, [0, 1, 1]), (39, [0, 1, 1]), (40, [0, 0, 1])])
def test_equal_scores_are_listed_all_or_none(items: int, coverage: list[int]) -> None:
    """Their middle is place (items + 1) / 2, as a label among them would rank."""
    table = torch.zeros(1, items + 1)
    table[:, 0] = -torch.inf
    _, top_k_counts = counted(table, torch.tensor([1]))
    assert [float((users > 0).double().mean()) for users in top_k_counts.by_cutoff().values()] == coverage


def test_what_is_listed_is_what_would_be_a_hit(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    """The label of a user is in their top k if and only if it ranks there; and nobody's lists depend on chunks."""
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    whole = evaluation.rank_labels(model, domain, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RANKED_TOGETHER", 7)
        patch.setitem(evaluation.USER_BLOCK, "cpu", 3)
        patch.setitem(evaluation.ITEM_BLOCK, "cpu", 4)
        parts = evaluation.rank_labels(model, domain, "test")
    assert {k: users.tolist() for k, users in whole.top_k_counts.items()} == {
        k: u.tolist() for k, u in parts.top_k_counts.items()
    }
    labels = domain.items[domain.examples("test", 6).label]
    hits = torch.bincount(labels[whole.ranks <= 10], minlength=domain.item_count + 1)[1:]
    assert (whole.top_k_counts[10] >= hits).all()
    assert whole.top_k_counts[10].sum() == 10 * len(labels), "no scores are equal, so every list has ten items"


def staircase(items: int) -> DomainData:
    """Item i was bought in training by i users, and no list of purchases is empty; 1 is what comes next for all."""
    histories = [[*range(user, items + 1), 1, 1] for user in range(1, items + 1)]
    lengths = torch.tensor([len(history) for history in histories])
    flat = torch.tensor([item for history in histories for item in history])
    nothing = Features(torch.zeros(items + 1, 1), torch.zeros(items + 1, dtype=torch.bool))
    return DomainData(
        name="Stairs",
        user_ids=[f"u{user:02}" for user in range(items)],
        item_ids=[f"i{item:02}" for item in range(items)],
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        items=flat,
        times=torch.arange(len(flat)),
        training=lengths - 2,
        validation=torch.ones_like(lengths),
        text=nothing,
        image=nothing,
    )


def test_popularity_shows_everybody_the_same_few() -> None:
    found = popularity.evaluate(staircase(30), "test")
    assert [found.value(f"coverage@{k}") for k in CUTOFFS] == [10 / 30, 20 / 30, 1]
    assert found.error("coverage@10") is None
    # The label of all is the item that was bought least: it is the last.
    assert [found.value(f"MRR@{k}") for k in CUTOFFS] == [0, 0, 1 / 30]
    assert found.error("MRR@50") == pytest.approx(0)


def test_neighbours_say_nothing_of_items_nobody_bought_with_theirs() -> None:
    """Items of score 0 are equal: they are listed together, or not at all."""
    domain = staircase(30)
    known = item_knn.neighbours(domain, 3)
    lists = item_knn.rank_labels(domain, "test", known, 20).top_k_counts
    assert 0 < (lists[10] > 0).sum() <= 30
    assert (lists[10] <= lists[20]).all()
    assert (lists[20] <= lists[50]).all()
    alone = replace(domain, training=torch.zeros_like(domain.training), validation=domain.training + 1)
    nothing = item_knn.rank_labels(alone, "test", item_knn.neighbours(alone, 3), 20)
    assert nothing.metrics().value("coverage@10") == 0
    assert nothing.metrics().value("coverage@20") == 1, "the middle of 30 is 15.5"


def test_rows_and_columns_are_the_declared_ones(domain: DomainData) -> None:
    found = popularity.rank_labels(domain, "test")
    rows = list(found.metrics().rows())
    assert [(row["metric"], row["k"]) for row in rows] == [(metric.label, k) for metric, k in figures()]
    assert list(found.metrics().values) == [metric.column(k) for metric, k in figures()]
    lists = {metric.label for metric in of_lists()}
    assert {row["metric"] for row in rows if row["standard_error"] is None} == lists
    assert not lists & {row["metric"] for *_, of_class in found.breakdown() for row in of_class.rows()}


def test_names_of_metrics_are_told_apart() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert column("NDCG@10") == "ndcg_10"


@pytest.mark.parametrize("label", ["", "hit rate", "2nd", "NDCG@10", "R-precision", "précision"])
def test_a_label_that_cannot_name_a_column_is_said(label: str) -> None:
    with pytest.raises(ValueError, match="needs another label: columns and settings are named by it"):
        ListMetric(label, "any", lambda users: 0.0)


def test_weights_are_kept_by_what_users_gain() -> None:
    """A model that shows everything to somebody is not the best one."""
    assert TrainConfig(metric="MRR@20").metric == "MRR@20"
    assert "coverage@10" not in criteria()
    with pytest.raises(ConfigError, match="metric is 'coverage@10'"):
        TrainConfig(metric="coverage@10")


@given(st.lists(st.integers(2, 400), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_hr_and_ndcg_are_the_same_to_the_last_digit(halves: list[int]) -> None:
    """As they were computed before metrics were declared: published figures stand."""
    ranks = torch.tensor(halves, dtype=torch.float64) / 2
    found, gain = metrics_of_ranks(ranks), 1 / torch.log2(1 + ranks)
    for k in CUTOFFS:
        hit = ranks <= k
        assert found.value(f"HR@{k}") == float(hit.double().mean())
        assert found.value(f"NDCG@{k}") == float(torch.where(hit, gain, 0.0).mean())
        by_user = np.where(ranks.numpy() <= k, 1 / np.log2(1 + ranks.numpy()), 0.0)
        assert (gains(ranks.numpy(), "NDCG", k) == by_user).all()
