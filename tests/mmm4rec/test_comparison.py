"""A comparison: its paired test by hand, shares of users, and real trainings that are never done twice."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmm4rec.baselines.config import BaselineSettings
from mmm4rec.comparison.significance import DRAWN, paired_p
from mmm4rec.comparison.subsets import share_of_users, without
from mmm4rec.comparison.tables import (
    ComparisonSummary,
    accuracy_rows,
    best_on_validation,
    gains,
    paired_rows,
    tables,
    write_comparison,
)
from mmm4rec.comparison.trainings import ABLATIONS, ComparisonRequest, Finished, Keeping, Run, Source, compare, planned
from mmm4rec.config import PRETRAINING, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.evaluation.results import metrics_of_ranks
from mmm4rec.metrics import CUTOFFS
from mmm4rec.tables import COMPARISON, TABLES
from mmm4rec.training.kept import keep

Small = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]
Make = Callable[..., DomainData]


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1], 2 / 8),  # +++ and --- of eight
        ([3, -1], 1.0),  # sums of 4, 2, -2, -4: none nearer to zero than the 2 seen
        ([2, 2, -1, 0, 0], 4 / 8),  # 3 seen; of +-2 +-2 +-1 those of 5, 3, -3, -5; who is served alike says nothing
        ([0, 0], 1.0),
    ],
)
def test_the_paired_test_by_hand(differences: list[float], p: float) -> None:
    theirs = np.full(len(differences), 0.1)
    assert paired_p(theirs + differences, theirs) == pytest.approx(p)
    assert paired_p(theirs, theirs + differences) == pytest.approx(p)


def test_drawn_signs_come_near_the_count_of_all() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 14)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=14)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert 0.05 < exact < 0.95
    assert paired_p(differences, np.zeros(14)) == pytest.approx(exact, abs=0.03)
    assert paired_p(differences, np.zeros(14)) == paired_p(differences, np.zeros(14))
    assert paired_p(np.ones(60), np.zeros(60)) == 1 / (DRAWN + 1), "never 0"


def test_gains_of_users_are_what_the_metrics_are_the_means_of() -> None:
    ranks = np.array([1.0, 2.5, 10.0, 10.5, 400.0])
    assert gains(ranks, "NDCG", 10) == pytest.approx([1, 1 / np.log2(3.5), 1 / np.log2(11), 0, 0])
    metrics = metrics_of_ranks(torch.from_numpy(ranks))
    for k in (10, 20, 50):
        assert gains(ranks, "HR", k).mean() == metrics.value(f"HR@{k}")
        assert gains(ranks, "NDCG", k).mean() == pytest.approx(metrics.value(f"NDCG@{k}"))


def of(model: str, ranks: list[float], seed: int | None = 0, ndcg: float = 0.0, part: str = "models") -> Finished:
    """A run that came out so."""
    lists = {f"coverage_{k}": 0.5 + (seed or 0) / 10 for k in CUTOFFS}
    return Finished(Run(part, model, seed=seed), np.array(ranks), lists, {"ndcg_10": ndcg}, {}, [])  # type: ignore[arg-type]


def test_the_rows_by_hand() -> None:
    runs = [
        of("scratch", [1, 1, 99, 99], ndcg=0.1),
        of("scratch", [1, 99, 99, 99], seed=1, ndcg=0.3),
        of("popularity", [99, 99, 99, 99], seed=None, ndcg=0.15),
    ]
    rows = {(row["model"], row["metric"], row["k"]): row for row in accuracy_rows(runs)}
    row = rows["scratch", "HR", 10]
    assert row["value"] == pytest.approx((0.5 + 0.25) / 2)
    # Users with the mean of their seeds: 1, 1/2, 0, 0.
    assert row["standard_error"] == pytest.approx(np.std([1, 0.5, 0, 0], ddof=1) / 2)
    assert row["seed_deviation"] == pytest.approx(0.25 / 2**0.5)
    assert (row["seeds"], row["users"]) == (2, 4)
    assert rows["popularity", "NDCG", 20]["seed_deviation"] is None
    row = rows["scratch", "coverage", 10]
    assert row["value"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["seed_deviation"] == pytest.approx(0.1 / 2**0.5)
    assert row["standard_error"] is None, "it is no mean over users"
    assert best_on_validation(runs) == ("models", "scratch", 100.0)
    (test,) = paired_rows(runs)
    assert (test["model"], test["against"], test["question"]) == ("popularity", "scratch", "best")
    assert test["difference"] == pytest.approx(-0.375)
    assert test["p"] == pytest.approx(2 / 4)
    assert test["verdict"] == "no difference shown"


def trained(model: str, ranks: list[float], best_epoch: int, steps: int, ndcg: float = 0.0, seed: int = 0) -> Finished:
    """A training of at most 10 epochs that came out so."""
    run = replace(of(model, ranks, seed).run, training=TrainConfig(epochs=10))
    cost = {"best_epoch": best_epoch, "optimiser_steps": steps}
    return Finished(run, np.array(ranks), of(model, ranks, seed).lists, {"ndcg_10": ndcg}, cost, [])


@pytest.mark.parametrize(
    ("best_epoch", "steps", "to_end"),
    [(9, 100, True), (0, 100, True), (10, 5000, False), (9, 99, False)],
)
def test_a_model_that_was_not_trained_to_its_end_is_marked_and_gets_no_p(
    best_epoch: int, steps: int, to_end: bool
) -> None:
    runs = [
        trained("sasrec", [1] * 9, 5, 400, ndcg=0.3),
        trained("scratch", [99] * 9, 5, 400),
        trained("scratch", [99] * 9, best_epoch, steps, seed=1),
        of("popularity", [99] * 9, seed=None),
    ]
    marks = {row["model"]: row["trained_to_end"] for row in accuracy_rows(runs)}
    assert marks == {"sasrec": True, "scratch": to_end, "popularity": True}, "one seed of it is enough"
    tests = {row["model"]: row for row in paired_rows(runs)}
    assert tests["popularity"]["p"] == pytest.approx(2 / 2**9)
    assert tests["scratch"]["p"] == (pytest.approx(2 / 2**9) if to_end else None)
    assert tests["scratch"]["verdict"] == ("worse" if to_end else "not trained to its end")
    assert tests["scratch"]["difference"] == pytest.approx(-1), "the figures stay"
    assert [row["trained_to_end"] for row in tables(runs)["costs"]] == [True, True, to_end]
    # Nor does anybody else, where the best is the one that was not.
    best = trained("bsarec", [1] * 9, best_epoch, steps, ndcg=0.9)
    assert all((row["p"] is None) is not to_end for row in paired_rows([best, *runs]) if row["model"] == "popularity")


def test_the_best_is_chosen_on_validation_and_not_on_test() -> None:
    good_on_test, good_on_validation = of("sasrec", [1, 1, 1], ndcg=0.1), of("scratch", [50, 50, 50], ndcg=0.2)
    assert best_on_validation([good_on_test, good_on_validation])[1] == "scratch"


def test_shares_of_users_hold_each_other_and_keep_histories_and_items(make_domain: Make) -> None:
    domain = make_domain(users=30)
    half, tenth = share_of_users(domain, 50), share_of_users(domain, 10)
    assert (half.user_count, tenth.user_count) == (15, 3)
    assert set(tenth.user_ids) < set(half.user_ids) < set(domain.user_ids)
    assert half.item_ids == domain.item_ids
    for place, user in enumerate(half.user_ids):
        there = domain.user_ids.index(user)
        for name in ("items", "times"):
            flat, whole = getattr(half, name), getattr(domain, name)
            mine = flat[half.offsets[place] : half.offsets[place + 1]]
            assert mine.equal(whole[domain.offsets[there] : domain.offsets[there + 1]])
        assert half.training[place] == domain.training[there]
        assert half.validation[place] == domain.validation[there]
    assert share_of_users(domain, 100) is domain
    assert share_of_users(domain, 0.01).user_count == 1
    short = replace(domain, training=torch.ones_like(domain.training))
    with pytest.raises(ModelError, match="Toys: 1% of its 30 users is 1, too few for training"):
        share_of_users(short, 1)


def test_a_modality_that_is_taken_away_is_missing_for_every_item(domain: DomainData) -> None:
    assert not without(domain, "image").image.present.any()
    assert not without(domain, "image").image.vectors.any()
    assert without(domain, "image").text is domain.text


@pytest.fixture
def asked(small: Small, quick: Training) -> Callable[..., ComparisonRequest]:
    """A factory: two seeds of a few models at their smallest, with changes."""
    defaults = {
        "models": ("gru4rec", "scratch", "finetuned"),
        "model": small(),
        "pretraining": replace(PRETRAINING, epochs=1, batch_size=32, accumulate=1, device="cpu"),
        "finetuning": quick(),
        "baselines": {"gru4rec": BaselineSettings(model={"hidden": 8, "inner": 8})},
        "seeds": 2,
        "ablations": False,
        "users": (50.0,),
    }
    return lambda **changes: ComparisonRequest(**{**defaults, **changes})


def finished(keeping: Keeping) -> dict[Path, int]:
    """What is kept, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in keeping.results.glob("*/finished/kept.json")}


def keeping_in(folder: Path) -> Keeping:
    return Keeping(folder / "results", folder / "trainings")


@pytest.mark.long
def test_a_comparison_that_was_stopped_goes_on_and_trains_nothing_twice(
    make_domain: Make, asked: Callable[..., ComparisonRequest], tmp_path: Path
) -> None:
    cache = keeping_in(tmp_path)
    domain, other = make_domain("Toys", users=60), make_domain("Mugs", seed=5)
    target = Source("Toys", lambda: domain, {"core/sequences": "1"})
    sources = [Source("Mugs", lambda: other, {"core/sequences": "1"})]

    # Two pre-trainings; and on the domain, a seed: gru4rec, scratch and fine-tuned with a half and all of the users.
    count = 2 + 2 * (1 + 2 + 2)

    def stop(done: int, total: int) -> None:
        assert total == 1000 * (count + 2)  # and two that are counted
        if done > 7500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(target, sources, asked(), cache, progress=stop)
    before = finished(cache)
    assert 0 < len(before) < count
    found = compare(target, sources, asked(), cache)
    whole = finished(cache)
    assert len(whole) == count
    assert before.items() <= whole.items()

    again = compare(target, sources, asked(), cache)
    assert finished(cache) == whole
    assert all(np.array_equal(a.ranks, b.ranks) for a, b in zip(found, again, strict=True))
    assert tables(again) == tables(found)

    # One seed more is one more of everything, and of other data all is new.
    compare(target, sources, asked(seeds=3), cache)
    assert len(finished(cache)) == count + count // 2
    moved = replace(target, versions={"core/sequences": "2"})
    compare(moved, sources, asked(seeds=1), cache)
    assert len(finished(cache)) == count + count // 2 + count // 2 - 1

    # A share learns from fewer users, and is tested on all.
    runs = found
    assert {len(one.ranks) for one in runs} == {len(domain.examples("test", 6))}
    assert {one.run.model for one in runs if not one.curve} == {"popularity", "item_knn"}, "nobody named them"
    seen = {one.run.key: one.curve[-1]["examples"] for one in runs if one.curve}
    assert seen["models", "scratch", 50.0] < seen["models", "scratch", 100.0]
    assert not list(cache.results.glob("*/unfinished"))
    assert len(list(tmp_path.rglob("model.safetensors"))) == 3, "of pre-training alone, weights are kept"
    assert {path.name for path in cache.trainings.glob("*/*")} == {"lock"}

    rows = tables(found)
    (tmp_path / "figures").mkdir()
    summary = write_comparison(found, tmp_path / "figures")
    assert summary == ComparisonSummary(count - 2, best_on_validation(found)[1])
    for stem, mine in rows.items():
        path = tmp_path / "figures" / f"{stem}.parquet"
        assert pq.read_schema(path).equals(TABLES[f"{COMPARISON}/{stem}"])
        assert pq.read_table(path).to_pylist() == mine != []
    questions = {(row["question"], row["model"], row["against"], row["percent"]) for row in rows["tests"]}
    assert ("transfer", "finetuned", "scratch", 50.0) in questions
    assert ("transfer", "finetuned", "scratch", 100.0) in questions
    assert len(rows["costs"]) == count - 2
    curve = [row for row in rows["curves"] if (row["model"], row["percent"], row["seed"]) == ("scratch", 100.0, 2020)]
    assert [row["epoch"] for row in curve] == [0, 1, 2]
    assert curve[0]["optimiser_steps"] == 0
    assert all(row["peak_bytes"] > 2**20 for row in rows["costs"])
    assert curve[0]["seconds"] < curve[1]["seconds"] < curve[2]["seconds"]


def test_what_another_comparison_is_training_is_waited_for(tmp_path: Path) -> None:
    built = []

    def build(made: Path, _: Path) -> None:
        built.append(made)
        time.sleep(0.1)
        (made / "ranks").touch()

    def kept(_: int) -> Path:
        with keep(tmp_path, {"seed": 1}, build) as folder:
            return folder

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(kept, range(4)))
    assert len(built) == len(folders) == 1
    assert (folders.pop() / "ranks").exists()


@pytest.mark.long
def test_every_ablation_is_trained_beside_the_whole_model(
    make_domain: Make, asked: Callable[..., ComparisonRequest], tmp_path: Path
) -> None:
    domain = make_domain("Toys")
    target = Source("Toys", lambda: domain, {})
    given = asked(models=("popularity",), ablations=True, seeds=1)
    found = compare(target, [], given, keeping_in(tmp_path))
    rows = tables(found)
    assert {row["model"] for row in rows["tests"] if row["question"] == "ablation"} == set(ABLATIONS)
    assert {row["against"] for row in rows["tests"] if row["question"] == "ablation"} == {"scratch"}
    # Each is a model of its own.
    losses = {one.run.model: one.curve[-1]["loss"] for one in found if one.curve}
    assert len(set(losses.values())) == len(ABLATIONS) + 1


def test_without_anything_to_transfer_from_nothing_can_be_pretrained(asked: Callable[..., ComparisonRequest]) -> None:
    assert any(run.pretrained for run in planned(asked(), can_transfer=True))
    with pytest.raises(ConfigError, match="finetuned: nothing is pre-trained, because there is no source domain"):
        planned(asked(), can_transfer=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("sasrek",)}, r"unknown model 'sasrek' \(did you mean 'sasrec'\?\)"),
        ({"models": ()}, "name at least one"),
        ({"seeds": 0}, "train at least once"),
        ({"users": (0.0,)}, "users: 0 is not a percentage"),
        ({"users": (101.0,)}, "users: 101 is not a percentage"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict, message: str, asked: Callable[..., ComparisonRequest]) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(**changes)
