"""What holds for every trained baseline: it learns, is deterministic, survives the disk, and reads only its history."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mmm4rec.baselines import popularity
from mmm4rec.baselines.config import BASELINES, ITEM_KNN, BaselineSettings, resolve
from mmm4rec.baselines.fitting import fit_all
from mmm4rec.checkpoint import load, load_model
from mmm4rec.comparison.ablations import AblationConfig
from mmm4rec.config import FINETUNING, PRETRAINING, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features, merge_domains
from mmm4rec.data.examples import Batch
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.evaluation.ranking import evaluate, rank_labels
from mmm4rec.evaluation.recommending import recommend
from mmm4rec.model.recommender import Recommender
from mmm4rec.registry import MODELS, config_as_dict, config_from_dict, make
from mmm4rec.reports import build_metrics
from mmm4rec.training import once
from mmm4rec.training.fit import TrainSummary, fit
from mmm4rec.training.once import TrainingRecipe

NAMES = [name for name in BASELINES if name != ITEM_KNN]
Small = Callable[..., Any]
Training = Callable[..., TrainConfig]


def built(config: Any, domain: DomainData) -> Recommender:
    """A model whose weights are spread so far that every part of it shows."""
    torch.manual_seed(0)
    model = make(config, domain).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def users(model: Recommender, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.user_vectors(batch, model.item_vectors(), batch.items)


def whole(domain: DomainData, length: int = 6) -> Batch:
    """All test examples in one batch."""
    examples = domain.examples("test", length)
    return examples.batch(torch.arange(len(examples)), length)


def trained(folder: Path, name: str, *given: Any, **more: Any) -> tuple[Path, TrainSummary]:
    out = folder / name
    out.mkdir()
    return out, fit(given[0], given[1], given[2], out, **more)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_a_planted_pattern_and_comes_back_from_disk(
    name: str, make_domain: Callable[..., DomainData], small_one: Small, quick: Training, tmp_path: Path
) -> None:
    domain = make_domain(users=60, items=30, widths=(32, 5), seed=1)
    training = quick(epochs=8, learning_rate=1e-2, validate_every=2)
    config = small_one(name, **({"temperature": 0.3} if name.startswith("unisrec") else {}))
    out, summary = trained(tmp_path, "once", domain, config, training)
    history = pq.read_table(out / "history.parquet").to_pylist()
    assert history[-1]["loss"] < 0.8 * history[1]["loss"]
    model = load_model(out, domain)
    assert type(model).__name__ == json.loads((out / "model.json").read_text())["model"]["kind"]
    assert evaluate(model, domain, "validation").values == summary.validation
    assert evaluate(model, domain, "test").value("NDCG@10") > 2 * popularity.evaluate(domain, "test").value("NDCG@10")
    assert (out / "items.parquet").exists() == (config.items != "text")
    assert recommend(model, domain, k=3).num_rows == 3 * domain.user_count


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_write_the_same_bytes(
    name: str, domain: DomainData, small_one: Small, quick: Training, tmp_path: Path
) -> None:
    """With all its dropout and noise; and a run that was stopped goes on to the same end."""
    published = BASELINES[name].config
    config = small_one(name, **{k: v for k, v in asdict(published).items() if k.startswith("dropout")})
    training = quick(epochs=1)
    first, _ = trained(tmp_path, "first", domain, config, training)
    torch.manual_seed(123)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "stopped", domain, config, training, state=state, state_seconds=0, progress=stop)
    second, summary = trained(tmp_path, "second", domain, config, training, state=state)
    assert summary.resumed_at == 2
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", NAMES)
def test_a_user_is_the_history_alone(name: str, domain: DomainData, small_one: Small) -> None:
    """Neither the other users of the batch, nor what stands at padding, nor the label change a user's vector."""
    model, batch = built(small_one(name), domain), whole(domain)
    together = users(model, batch)
    assert (together[0] - together[1]).abs().max() > 1e-3
    examples = domain.examples("test", 6)
    for row in range(8):
        alone = examples.batch(torch.tensor([row]), int(batch.lengths[row]))
        torch.testing.assert_close(users(model, alone)[0], together[row], rtol=1e-4, atol=1e-5)
    padding = torch.arange(6) >= batch.lengths[:, None]
    assert padding.any()
    spoiled = batch._replace(
        items=torch.where(padding, 7, batch.items),
        times=torch.where(padding, batch.times.max() + 1, batch.times),
        labels=torch.ones_like(batch.lengths),
    )
    torch.testing.assert_close(users(model, spoiled), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bsarec"])
def test_a_later_item_does_not_change_what_is_before_it(name: str, domain: DomainData, small_one: Small) -> None:
    model = built(small_one(name), domain)
    batch = whole(domain)._replace(lengths=torch.full((len(whole(domain).items),), 6))
    with torch.no_grad():
        tokens = torch.randn(len(batch.items), 6, 16)
        changed = tokens.clone()
        changed[:, 4:] = torch.randn(len(tokens), 2, 16)
        before, after = (model.encode(t, batch) for t in (tokens, changed))  # type: ignore[operator]
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_item_without_text_has_the_learned_vector(name: str, domain: DomainData, small_one: Small) -> None:
    present = domain.text.present.clone()
    present[[3, 4]] = False
    config = small_one(name)
    model = built(config, replace(domain, text=Features(domain.text.vectors * present[:, None], present)))
    with torch.no_grad():
        vectors = model.item_vectors()[0]
        if config.items == "both":
            vectors = vectors - model.item
    assert torch.allclose(vectors[3], vectors[4], atol=1e-6) == (config.items != "id")
    assert not torch.allclose(vectors[2], vectors[5], atol=1e-6)


@pytest.mark.parametrize("name", ["sasrec_text", "unisrec"])
def test_what_knows_texts_only_is_pretrained_on_several_domains(
    name: str, make_domain: Callable[..., DomainData], small_one: Small, quick: Training, tmp_path: Path
) -> None:
    sources = merge_domains([make_domain("A", items=20, seed=1), make_domain("B", items=12, seed=2)])
    training = replace(PRETRAINING, epochs=1, batch_size=32, accumulate=1, device="cpu")
    out, _ = trained(tmp_path, "pretrained", sources, small_one(name), training)
    target = make_domain("T", items=18, seed=3)
    load_model(out, target)  # it has no vectors of items, so it serves any domain
    both = small_one(name, items="both")
    _, tuned = trained(tmp_path, "tuned", target, both, quick(epochs=1), init=out)
    assert tuned.transfer is not None
    assert list(tuned.transfer.fresh) == ["item"]
    with pytest.raises(ModelError, match=r"it is a .*, from which a GRU4Rec cannot start"):
        trained(tmp_path, "other", target, small_one("gru4rec"), quick(epochs=1), init=out)


def test_a_config_says_which_model_it_is_of(domain: DomainData) -> None:
    configs = [AblationConfig(mixer="attention"), *(BASELINES[name].config for name in NAMES)]
    for config in (ModelConfig(), *configs):
        assert config_from_dict(json.loads(json.dumps(config_as_dict(config))), "here") == config  # type: ignore[arg-type]
    assert "kind" not in config_as_dict(ModelConfig())
    assert {type(make(c, domain)).__name__ for c in (ModelConfig(), *configs)} == set(MODELS)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="here: the model kind 'Oracle' is unknown; known: MMM4Rec"):
        config_from_dict({"kind": "Oracle"}, "here")


def test_settings_lie_over_those_of_the_paper_and_these_over_fine_tuning() -> None:
    finetuning = TrainConfig(epochs=7, learning_rate=0.5, batch_size=1000)
    given = {
        "sasrec": BaselineSettings({"heads": 4}, {"weight_decay": 0.1}),
        ITEM_KNN: BaselineSettings({"neighbours": 5}),
    }
    asked = resolve(given, finetuning, length=9)
    model, training = asked.trained["sasrec"]
    assert model == replace(BASELINES["sasrec"].config, heads=4, length=9)  # type: ignore[arg-type]
    assert (training.epochs, training.learning_rate, training.weight_decay, training.batch_size) == (7, 1e-3, 0.1, 256)
    assert asked.item_knn is not None
    assert (asked.item_knn.neighbours, asked.item_knn.length) == (5, 9)


SMALLEST_PUBLISHED = 34_101
"""Training examples of Scientific: 59,427 interactions of 8,442 users, of which each has one to begin with, one for
validation and one for the test."""


@pytest.mark.parametrize(
    ("examples", "batch"),
    [(10**7, 2048), (SMALLEST_PUBLISHED, 2048), (2048 * 16 - 1, 1024), (14_478, 512), (2_500, 128), (100, 32), (1, 32)],
)
def test_published_batches_shrink_with_the_data_and_stay_on_published_data(examples: int, batch: int) -> None:
    asked = {name: BaselineSettings() for name in BASELINES}
    for name, (_, training) in resolve(asked, FINETUNING, 20).trained.items():
        published = 256 if name == "bsarec" else 2048
        assert training.examples_per_step == published
        assert training.fitted(examples).examples_per_step == min(published, batch)
    assert FINETUNING.fitted(1) == FINETUNING, "MMM4Rec is trained as the settings say"


@pytest.mark.parametrize(
    ("training", "batch"),
    [({"batch_size": 1024}, 8192), ({"accumulate": 2}, 512), ({"least_steps": 0}, 2048), ({"least_steps": 4}, 512)],
)
def test_batches_that_are_asked_for_are_taken_as_they_are(training: dict, batch: int) -> None:
    ((_, found),) = resolve({"sasrec": BaselineSettings(training=training)}, FINETUNING, 20).trained.values()
    assert found.fitted(3_000).examples_per_step == batch


def test_a_training_says_how_many_examples_a_step_it_took(
    domain: DomainData, small_one: Small, quick: Training, tmp_path: Path
) -> None:
    asked = quick(batch_size=256, accumulate=8, least_steps=16, epochs=1)
    summary = fit(domain, small_one("sasrec"), asked, tmp_path)
    assert summary.examples_per_step == 32
    assert summary.optimiser_steps == -(-summary.examples_per_epoch // 32) > 1
    assert json.loads((tmp_path / "model.json").read_text())["training"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("name", "model", "training", "message"),
    [
        ("sasrek", {}, {}, "baselines: unknown baseline 'sasrek' .did you mean 'sasrec'"),
        ("sasrec", {"head": 2}, {}, r"baselines\.sasrec\.model: unknown setting 'head' .did you mean 'heads'"),
        ("sasrec", {}, {"epoch": 2}, r"baselines\.sasrec\.training: unknown setting 'epoch'"),
        ("sasrec", {"heads": 7}, {}, "heads 7 does not divide hidden 64"),
        ("gru4rec", {"dropout": 1.0}, {}, "dropout is 1.0: give a share"),
        ("bsarec", {"alpha": 2.0}, {}, "alpha is 2.0: give a share of at most 1"),
        ("bsarec", {"cutoff": 21}, {}, "cutoff is 21: give at most 20"),
        ("tim4rec", {"head_width": 7}, {}, "head_width 7 does not divide"),
        ("unisrec", {"items": "id"}, {}, "choose text or both"),
        (ITEM_KNN, {"neighbours": 0}, {}, "must be greater than 0"),
        (ITEM_KNN, {}, {"epochs": 2}, "counted, not trained"),
    ],
)
def test_settings_are_checked(name: str, model: dict, training: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({name: BaselineSettings(model, training)}, TrainConfig(), length=20)


def test_several_are_trained_into_one_folder_and_measured(
    domain: DomainData, small_one: Small, quick: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped between two keeps what is finished, as it does when another is asked for; the metrics have
    a row of each."""

    def recipe(name: str, data: str = "1", code: str = "1") -> TrainingRecipe:
        return TrainingRecipe(small_one(name), quick(epochs=1), {"core/sequences@Toys": data}, code)

    asked = {name: recipe(name) for name in ("gru4rec", "sasrec_text", "mamba4rec")}
    out, cache = tmp_path / "out", tmp_path / "cache"
    out.mkdir()

    def stop(done: int, total: int) -> None:
        assert done <= total
        if done * len(asked) > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_all(domain, asked, out, cache=cache, progress=stop)
    seen: list[int] = []
    real = once.fit
    monkeypatch.setattr(once, "fit", lambda *given, **more: (seen.append(1), real(*given, **more))[1])
    summary = fit_all(domain, asked, out, cache=cache)
    assert len(seen) == 2
    assert fit_all(domain, asked, out, cache=cache) == summary, "killed before it was published, nothing is lost"
    assert len(seen) == 2
    (tmp_path / "more").mkdir()
    more = {"sasrec": recipe("sasrec"), **asked}
    assert fit_all(domain, more, tmp_path / "more", cache=cache).models.items() >= summary.models.items()
    assert len(seen) == 3, "one more is trained, and nothing again"
    (tmp_path / "other").mkdir()
    for other in (recipe("gru4rec", data="2"), recipe("gru4rec", code="2")):
        fit_all(domain, {"gru4rec": other}, tmp_path / "other", cache=cache)
    assert len(seen) == 5, "other data, other code"
    assert list(summary.models) == list(asked)
    files = {
        "items.parquet",
        "history.parquet",
        *(f"{name}.{kind}" for name in asked for kind in ("json", "safetensors")),
    }
    assert {path.name for path in out.iterdir()} == files

    reports = tmp_path / "reports"
    reports.mkdir()
    checkpoints = {name: out / f"{name}.safetensors" for name in asked}
    found = build_metrics(domain, checkpoints, reports, knn=BASELINES[ITEM_KNN].config)  # type: ignore[arg-type]
    assert list(found.ndcg_10) == ["popularity", ITEM_KNN, *asked]
    outcomes = {row["model"]: row for row in pq.read_table(reports / "outcomes.parquet").to_pylist()}
    curves = pq.read_table(reports / "curves.parquet").to_pylist()
    for name, checkpoint in checkpoints.items():
        assert outcomes[name]["parameters"] == summary.models[name]["parameters"]
        assert sum(row["model"] == name for row in curves) == 2
        model = load_model(checkpoint, domain)
        assert rank_labels(model, domain, "test").metrics().value("NDCG@10") == found.ndcg_10[name]
    assert load(checkpoints["sasrec_text"]).item_ids is None
