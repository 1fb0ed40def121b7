"""The reports of trained models: what they cost, how good they are, what they recommend."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmm4rec.config import PRETRAINING, ModelConfig, RecommendationConfig, TrainConfig, read_config
from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.reports import TrainingOutcome, best_on_validation, build_metrics, build_recommendations, outcome
from mmm4rec.tables import TABLES, write_table
from mmm4rec.training.fit import fit, pretrain


def history(*values: float | None, metric: str = "ndcg_10") -> list[dict]:
    """A history with these validations, epoch by epoch, 3 steps and 10 examples each."""
    return [
        {"epoch": epoch, "optimiser_steps": 3 * epoch, "examples": 10 * epoch, metric: value}
        for epoch, value in enumerate(values)
    ]


def test_the_way_to_nearly_the_best_is_counted() -> None:
    found = outcome("scratch", 7, history(0.0, 0.5, 0.949, 0.951, 1.0, 0.99), best_epoch=4)
    assert found == TrainingOutcome(
        "scratch", 7, 4, 5, 12, 40, epochs_to_95=3, optimiser_steps_to_95=9, examples_to_95=30
    )


def test_epochs_without_validation_reach_nothing() -> None:
    found = outcome("scratch", 7, history(0.0, None, 0.9, None, 0.91, metric="hr_20"), best_epoch=4, metric="HR@20")
    assert (found.epochs_to_95, found.optimiser_steps_to_best) == (2, 12)
    never = outcome("pretrained", 7, history(None, None), best_epoch=1)
    assert (never.best_epoch, never.epochs_to_95, never.optimiser_steps_to_95) == (1, None, None)


def test_a_start_that_is_never_surpassed_costs_nothing() -> None:
    found = outcome("finetuned", 7, history(0.5, 0.4), best_epoch=0)
    assert (found.optimiser_steps_to_best, found.epochs_to_95, found.examples_to_95) == (0, 0, 0)


@pytest.fixture
def trained(
    domain: DomainData, small: Callable[..., ModelConfig], quick: Callable[..., TrainConfig], tmp_path: Path
) -> dict[str, Path]:
    """A model from scratch and a pre-trained one, which was never validated."""
    models = {name: tmp_path / name for name in ("scratch", "pretrained")}
    for folder in models.values():
        folder.mkdir()
    fit(domain, small(), quick(), models["scratch"])
    config = replace(PRETRAINING, epochs=1, batch_size=32, accumulate=1, device="cpu")
    pretrain([domain], small(), config, models["pretrained"])
    return models


def test_the_reports_of_a_domain(domain: DomainData, trained: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        summary = build_metrics(domain, trained, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == [f"{stem}.parquet" for stem in ("breakdown", "curves", "metrics", "outcomes")]
    for file in files:
        written = (tmp_path / "first" / file).read_bytes()
        assert written == (tmp_path / "second" / file).read_bytes()
        table = pq.read_table(tmp_path / "first" / file)
        assert table.schema.equals(TABLES[f"reports/metrics/{file.removesuffix('.parquet')}"], check_metadata=True)
    metrics, classes, curves, outcomes = (
        pq.read_table(tmp_path / "first" / f"{stem}.parquet").to_pylist()
        for stem in ("metrics", "breakdown", "curves", "outcomes")
    )
    models = ["popularity", "scratch", "pretrained"]
    assert [row["model"] for row in outcomes] == models
    assert {(row["model"], row["split"]) for row in metrics} == {(m, s) for m in models for s in ("validation", "test")}
    assert {row["model"] for row in curves} == {"scratch", "pretrained"}
    test_hr = {r["model"]: r["value"] for r in metrics if (r["split"], r["metric"], r["k"]) == ("test", "HR", 10)}
    assert summary.hr_10 == test_hr
    of_test = [r for r in classes if (r["split"], r["metric"], r["k"]) == ("test", "HR", 10)]
    for model in models:
        for by in ("history_length", "label_count"):
            rows = [r for r in of_test if (r["model"], r["breakdown"]) == (model, by)]
            assert sum(r["users"] for r in rows) == summary.users
            assert sum(r["users"] * r["value"] for r in rows) == pytest.approx(summary.users * test_hr[model])
    # What the validation curve says of the best epoch is what the metrics say of the weights kept.
    best = next(row for row in outcomes if row["model"] == "scratch")
    kept = next(row for row in curves if (row["model"], row["epoch"]) == ("scratch", best["best_epoch"]))
    validation = next(
        r for r in metrics if (r["model"], r["split"], r["metric"], r["k"]) == ("scratch", "validation", "NDCG", 10)
    )
    assert validation["value"] == kept["ndcg_10"]
    assert {field.name for field in fields(TrainingOutcome)} == set(best)


def test_seen_items_are_recommended_only_where_asked_for(
    domain: DomainData, trained: dict[str, Path], tmp_path: Path
) -> None:
    owned = {
        (user, domain.item_ids[item - 1])
        for u, user in enumerate(domain.user_ids)
        for item in domain.items[domain.offsets[u] : domain.offsets[u + 1]].tolist()
    }
    found = {}
    for exclude_seen in (True, False):
        summary = build_recommendations(
            domain, {"scratch": trained["scratch"]}, tmp_path, RecommendationConfig(3, exclude_seen)
        )
        rows = pq.read_table(tmp_path / "recommendations.parquet").to_pylist()
        assert (summary.rows, summary.users, summary.model) == (len(rows), domain.user_count, "scratch")
        found[exclude_seen] = {(row["user_id"], row["item_id"]) for row in rows}
    assert not found[True] & owned
    assert found[False] & owned


def validated(folder: Path, metric: str = "NDCG@10", **reached: float) -> Path:
    """The record of a model that came so far on validation."""
    folder.mkdir()
    write_table([], "models/finetuned/history", folder / "history.parquet")
    record = {"training": {"metric": metric}, "validation": reached}
    (folder / "model.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("scratch", "finetuned", "best"), [(0.2, 0.1, "scratch"), (0.1, 0.2, "finetuned"), (0.2, 0.2, "finetuned")]
)
def test_what_recommends_is_the_best_on_validation(tmp_path: Path, scratch: float, finetuned: float, best: str) -> None:
    models = {
        "scratch": validated(tmp_path / "a", ndcg_10=scratch, hr_10=0.9),
        "finetuned": validated(tmp_path / "b", ndcg_10=finetuned, hr_10=0.1),
    }
    assert best_on_validation(models) == (best, {"scratch": scratch, "finetuned": finetuned})


def test_models_are_chosen_by_the_metric_of_their_training(tmp_path: Path) -> None:
    models = {
        "scratch": validated(tmp_path / "a", "HR@20", hr_20=0.3, ndcg_10=0.1),
        "finetuned": validated(tmp_path / "b", "HR@20", hr_20=0.2, ndcg_10=0.9),
    }
    assert best_on_validation(models) == ("scratch", {"scratch": 0.3, "finetuned": 0.2})
    never = {"scratch": models["scratch"], "finetuned": validated(tmp_path / "c")}
    assert best_on_validation(never) == ("scratch", {"scratch": 0.3}), "what was never validated comes last"


def test_the_best_recommends_and_is_named(domain: DomainData, trained: dict[str, Path], tmp_path: Path) -> None:
    worse = Path(shutil.copytree(trained["scratch"], tmp_path / "worse"))
    record = json.loads((worse / "model.json").read_text())
    record["validation"]["ndcg_10"] -= 0.01
    (worse / "model.json").write_text(json.dumps(record))
    (worse / "model.safetensors").write_bytes(b"never read")
    models = {"scratch": trained["scratch"], "finetuned": worse}
    summary = build_recommendations(domain, models, tmp_path, RecommendationConfig(1))
    assert summary.model == "scratch"
    assert set(summary.validation) == {"scratch", "finetuned"}
    assert set(pq.read_table(tmp_path / "recommendations.parquet")["model"].to_pylist()) == {"scratch"}


def test_all_models_recommend_where_asked_for(domain: DomainData, trained: dict[str, Path], tmp_path: Path) -> None:
    models = {"copy": trained["scratch"], "scratch": trained["scratch"]}
    summary = build_recommendations(domain, models, tmp_path, RecommendationConfig(3, models="all"))
    rows = pq.read_table(tmp_path / "recommendations.parquet").to_pylist()
    assert summary.rows == len(rows)
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["scratch", "copy"], "the best one first"
    lists = [[{**row, "model": ""} for row in rows if row["model"] == name] for name in models]
    assert lists[0] == lists[1] != []


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"{")])
@pytest.mark.parametrize("name", ["history.parquet", "model.json"])
def test_a_model_without_the_record_of_its_training_is_refused(
    domain: DomainData, trained: dict[str, Path], tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(trained["scratch"] / name)
    with pytest.raises(
        ModelError, match=r"record of the training cannot be read .*restore history\.parquet and .*, or train"
    ):
        build_metrics(domain, trained, tmp_path)


def test_what_to_recommend_is_a_setting() -> None:
    found = read_config(RecommendationConfig, {"exclude_seen": False}, "recommendations")
    assert found == RecommendationConfig(k=10, exclude_seen=False)
    with pytest.raises(ConfigError, match="recommendations: k is 0: recommend at least 1"):
        read_config(RecommendationConfig, {"k": 0}, "recommendations")
    with pytest.raises(ConfigError, match="did you mean 'exclude_seen'"):
        read_config(RecommendationConfig, {"include_seen": True}, "recommendations")
