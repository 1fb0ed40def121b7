"""Ranks, metrics and recommendations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmm4rec.baselines import popularity
from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ModelError
from mmm4rec.evaluation import ranking as evaluation
from mmm4rec.evaluation import recommending
from mmm4rec.evaluation.ranking import evaluate, ranks_by_counting
from mmm4rec.evaluation.recommending import recommend, write_recommendations
from mmm4rec.evaluation.results import metrics_of_ranks
from mmm4rec.metrics import figures
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.reports import TrainingOutcome, write_metrics


def rank_by_sorting(scores: list[float], label: int) -> float:
    """The mean place of the label's score among all, best first."""
    order = sorted(scores, reverse=True)
    places = [place for place, value in enumerate(order, start=1) if value == scores[label]]
    return sum(places) / len(places)


def from_table(table: torch.Tensor) -> evaluation.Score:
    return lambda rows, low, high: table[rows, low:high]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 2**16), st.sampled_from([2, 3, 100]))
def test_counting_is_sorting(users: int, rows: int, seed: int, block: int) -> None:
    random = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 4, (users, rows), generator=random).float()  # many ties
    labels = torch.randint(1, rows, (users,), generator=random)
    table[:, 0] = -torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(evaluation.USER_BLOCK, "cpu", 2)
        found = ranks_by_counting(from_table(table), labels, rows, item_block=block)
    expected = [rank_by_sorting(row, label) for row, label in zip(table.tolist(), labels.tolist(), strict=True)]
    assert found.tolist() == expected


def test_a_constant_scorer_gets_the_middle() -> None:
    table = torch.zeros(1, 12)
    table[:, 0] = -torch.inf
    assert ranks_by_counting(from_table(table), torch.tensor([5]), 12).tolist() == [6.0]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_ranks_nothing_is_an_error(value: float) -> None:
    table = torch.zeros(2, 5)
    table[1, 3] = value
    with pytest.raises(ModelError, match=r"NaN or infinite.*lower the learning rate"):
        ranks_by_counting(from_table(table), torch.tensor([3, 3]), 5)


def test_metrics_are_the_formulas() -> None:
    found = metrics_of_ranks(torch.tensor([1.0, 3.0, 10.0, 10.5]))
    gains = torch.tensor([1.0, 0.5, 1 / torch.log2(torch.tensor(11.0)), 0.0], dtype=torch.float64)
    assert found.value("HR@10") == 0.75
    assert found.value("HR@20") == 1.0
    assert found.value("NDCG@10") == pytest.approx(float(gains.mean()))
    assert found.error("HR@10") == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert found.error("NDCG@10") == pytest.approx(float(gains.std()) / 2)
    with pytest.raises(ModelError, match="no user"):
        metrics_of_ranks(torch.zeros(0))


def test_popularity_counts_training_interactions_only(domain: DomainData) -> None:
    expected = torch.zeros(domain.item_count + 1, dtype=torch.int64)
    for u in range(domain.user_count):
        for item in domain.items[domain.offsets[u] : domain.offsets[u + 1]][:-2]:
            expected[item] += 1
    assert torch.equal(domain.training_counts(), expected)
    ranks = []
    for u in range(domain.user_count):
        label = int(domain.items[domain.offsets[u + 1] - 1])
        ranks.append(rank_by_sorting(expected[1:].tolist(), label - 1))
    assert metrics_of_ranks(popularity.rank_labels(domain, "test").ranks) == metrics_of_ranks(torch.tensor(ranks))


def test_evaluation_equals_scoring_user_by_user(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    found = evaluate(model, domain, "test")
    assert model.training
    model.eval()
    ranks = []
    examples = domain.examples("test", 6)
    table = model.score_vectors(model.item_vectors())
    for e in range(len(examples)):
        batch = examples.batch(torch.tensor([e]), 6)
        scores = model.scores(model.user_vectors(batch, model.item_vectors(), batch.items), table)[0]
        assert batch.labels is not None
        ranks.append(float(1 + (scores > scores[batch.labels[0]]).sum()))
    expected = metrics_of_ranks(torch.tensor(ranks))
    assert found.value("HR@10") == pytest.approx(expected.value("HR@10"))
    assert found.value("NDCG@50") == pytest.approx(expected.value("NDCG@50"), abs=1e-3)


@pytest.mark.parametrize("compat", ["default", "published"])
def test_recommendations(domain: DomainData, small: Callable[..., ModelConfig], compat: str) -> None:
    torch.manual_seed(0)
    model = MMM4Rec(small(compat=compat), domain)
    table = recommend(model, domain, k=4)
    seen = {
        user: {domain.item_ids[i - 1] for i in domain.items[domain.offsets[u] : domain.offsets[u + 1]].tolist()}
        for u, user in enumerate(domain.user_ids)
    }
    rows = table.to_pylist()
    assert {row["user_id"] for row in rows} == set(domain.user_ids)
    assert all(row["item_id"] not in seen[row["user_id"]] for row in rows)
    for user in domain.user_ids:
        mine = [row for row in rows if row["user_id"] == user]
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        assert len(mine) == min(4, domain.item_count - len(seen[user]))
        assert [row["score"] for row in mine] == sorted((row["score"] for row in mine), reverse=True)
    # Asked for everything, the padding item never comes.
    everything = recommend(model, domain, k=100, exclude_seen=False).to_pylist()
    assert len(everything) == domain.user_count * domain.item_count


def test_the_whole_history_is_the_input(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    """The last (test) item changes what is recommended next."""
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    items = domain.items.clone()
    last = int(domain.offsets[1]) - 1
    items[last] = items[last] % domain.item_count + 1
    before, after = (recommend(model, d, exclude_seen=False) for d in (domain, replace(domain, items=items)))
    assert before.slice(0, 10)["score"] != after.slice(0, 10)["score"]
    assert before.slice(10) == after.slice(10)


def test_nan_weights_are_an_error(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    model = MMM4Rec(small(), domain)
    model.text_adapter.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        evaluate(model, domain, "test")
    with pytest.raises(ModelError, match="NaN"):
        recommend(model, domain)


def test_what_is_held_of_scores_does_not_grow(
    domain: DomainData, small: Callable[..., ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks and blocks of any size give the same ranks, and no product is larger than a block of both."""
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    whole = evaluation.rank_labels(model, domain, "test")
    for name in ("ENCODED_TOGETHER", "RANKED_TOGETHER", "TABLE_BLOCK"):
        monkeypatch.setattr(evaluation, name, 7)
    for sizes_by_device, size in ((evaluation.USER_BATCH, 7), (evaluation.USER_BLOCK, 3), (evaluation.ITEM_BLOCK, 4)):
        monkeypatch.setitem(sizes_by_device, "cpu", size)
    sizes = []
    scores = MMM4Rec.scores
    monkeypatch.setattr(
        MMM4Rec,
        "scores",
        lambda self, users, table, first_item=0: (
            sizes.append((len(users), len(table))) or scores(self, users, table, first_item)
        ),
    )
    assert torch.equal(evaluation.rank_labels(model, domain, "test").ranks, whole.ranks)
    assert max(users for users, _ in sizes) == 3
    assert max(items for _, items in sizes) == 4


def test_autocast_does_not_round_scores(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    """Scores of bf16 products tie by the dozen; users encoded in bf16 are the same users within its 3 digits."""
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    exact = evaluation.rank_labels(model, domain, "test")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = evaluation.rank_labels(model, domain, "test")
    assert (rounded.ranks == rounded.ranks.round()).all()
    assert rounded.metrics().value("NDCG@10") == pytest.approx(
        exact.metrics().value("NDCG@10"), abs=2 * exact.metrics().error("NDCG@10")
    )


@pytest.mark.parametrize("label", [0, 12])
def test_a_label_that_is_no_item_is_an_error(label: int) -> None:
    with pytest.raises(ModelError, match=rf"labels run from .*{label}.*items are 1\.\.11 .*build core/sequences again"):
        ranks_by_counting(from_table(torch.zeros(2, 12)), torch.tensor([3, label]), 12)


def test_the_breakdown_adds_up(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    """Every user is in one class of each breakdown, by figures counted here user by user."""
    torch.manual_seed(0)
    found = evaluation.rank_labels(MMM4Rec(small(), domain), domain, "validation")
    trained = Counter(
        int(item)
        for u in range(domain.user_count)
        for item in domain.items[domain.offsets[u] : domain.offsets[u + 1]][:-2]
    )
    expected: dict[tuple[str, int, int | None], list[float]] = {}
    for u in range(domain.user_count):
        items = domain.items[domain.offsets[u] : domain.offsets[u + 1]].tolist()
        length, count = len(items) - 2, trained[items[-2]]
        of_length = (1, 4) if length < 5 else (5, 9)
        of_count = (0, 0) if count == 0 else (1, 4) if count < 5 else (5, 19) if count < 20 else (20, 99)
        for key in (("history_length", *of_length), ("label_count", *of_count)):
            expected.setdefault(key, []).append(float(found.ranks[u]))
    classes = {(by, low, high): metrics for by, low, high, metrics in found.breakdown()}
    assert len(classes) >= 4
    assert classes == {key: metrics_of_ranks(torch.tensor(ranks)) for key, ranks in expected.items()}
    rare = replace(found, label_counts=torch.full_like(found.label_counts, 100))
    assert [(by, low, high) for by, low, high, _ in rare.breakdown()][-1] == ("label_count", 100, None)


def test_popularity_has_nothing_to_say_of_cold_items(domain: DomainData) -> None:
    """Item 15 becomes the test label of all and nothing else: every item that was ever seen is before it."""
    items = torch.where(domain.items == 15, 1, domain.items)
    items[domain.offsets[1:] - 1] = 15
    cold = replace(domain, items=items)
    classes = [found for found in popularity.rank_labels(cold, "test").breakdown() if found[0] == "label_count"]
    assert [(low, high) for _, low, high, _ in classes] == [(0, 0)]
    assert classes[0][3].value("HR@10") == 0


def test_equal_scores_are_recommended_in_the_order_of_items() -> None:
    scores = torch.tensor([[9.0, 1, 2, 1, 2, 1, 0], [9.0, -torch.inf, 0, 0, 3, 0, 0]])
    row, rank, item, value = recommending._best(scores, 4)
    assert row.tolist() == [0] * 4 + [1] * 4
    assert rank.tolist() == [1, 2, 3, 4] * 2
    assert item.tolist() == [2, 4, 1, 3, 4, 2, 3, 5]
    assert value.tolist() == [2, 2, 1, 1, 3, 0, 0, 0]


def test_recommendations_do_not_depend_on_chunks(
    domain: DomainData, small: Callable[..., ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    whole = recommend(model, domain, k=3).to_pylist()
    monkeypatch.setitem(evaluation.USER_BATCH, "cpu", 9)
    monkeypatch.setattr(evaluation, "ENCODED_TOGETHER", 9)
    for name in ("RANKED_TOGETHER", "RECOMMENDED_SCORES"):
        monkeypatch.setattr(recommending, name, 70 if name == "RECOMMENDED_SCORES" else 9)
    parts = recommend(model, domain, k=3).to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in parts] == [(row["user_id"], row["item_id"]) for row in whole]
    with pytest.raises(ModelError, match="at least 1"):
        recommend(model, domain, k=0)


def test_reports_are_written(domain: DomainData, small: Callable[..., ModelConfig], tmp_path: Path) -> None:
    found = popularity.rank_labels(domain, "test")
    metrics = found.metrics()
    write_metrics({("popularity", "test"): found}, [TrainingOutcome("popularity", 0)], tmp_path)
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert len(rows) == len(list(figures()))
    assert {
        "model": "popularity",
        "split": "test",
        "metric": "HR",
        "k": 10,
        "value": metrics.value("HR@10"),
    }.items() <= rows[0].items()
    classes = pq.read_table(tmp_path / "breakdown.parquet").to_pylist()
    for by in ("history_length", "label_count"):
        of_hr = [row for row in classes if (row["breakdown"], row["metric"], row["k"]) == (by, "HR", 10)]
        assert sum(row["users"] for row in of_hr) == metrics.users
        assert sum(row["users"] * row["value"] for row in of_hr) == pytest.approx(
            metrics.users * metrics.value("HR@10")
        )
    assert pq.read_table(tmp_path / "outcomes.parquet").to_pylist()[0]["best_epoch"] is None
    write_recommendations({"scratch": recommend(MMM4Rec(small(), domain), domain, k=1)}, tmp_path)
    assert pq.read_table(tmp_path / "recommendations.parquet").num_rows <= domain.user_count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_ranks_as_the_cpu_does(domain: DomainData, small: Callable[..., ModelConfig]) -> None:
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain)
    exact = evaluation.rank_labels(model, domain, "test")
    found = evaluation.rank_labels(model.cuda(), domain, "test")
    assert found.metrics().value("NDCG@10") == pytest.approx(
        exact.metrics().value("NDCG@10"), abs=exact.metrics().error("NDCG@10")
    )
    assert recommend(model, domain, k=3).num_rows == recommend(model.cpu(), domain, k=3).num_rows
