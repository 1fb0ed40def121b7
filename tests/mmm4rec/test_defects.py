"""The defects of the published implementation: each shown in published mode, and absent from the default mode.

Where a rule holds in both modes, a test of the rule. Every test works through what people call (training, evaluation,
a model's loss and user vectors), so that a rule which is stated but not applied is found too.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from mmm4rec.checkpoint import load_model
from mmm4rec.config import Compat, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.examples import Batch
from mmm4rec.data.reading import load_domain
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.ranking import encode_users, evaluate, rank_labels
from mmm4rec.model.compat import rules
from mmm4rec.model.gaps import GapNorm, gap_inputs
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.training.fit import fit, pretrain

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]
DAY = 86_400
MODES: tuple[Compat, ...] = ("published", "default")
both_modes = pytest.mark.parametrize("compat", MODES)
STILL = {"dropout_embedding": 0.0, "dropout_hidden": 0.0, "dropout_time": 0.0}


def build(config: ModelConfig, domain: DomainData, spread: float = 0.3) -> MMM4Rec:
    """A model in eval mode; a `spread` of weights makes every path matter, 0 leaves it as it is initialised."""
    torch.manual_seed(0)
    model = MMM4Rec(config, domain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model.eval()


def users(model: MMM4Rec, domain: DomainData, split: str = "test") -> torch.Tensor:
    """User vectors as evaluation makes them."""
    examples = domain.examples(split, model.config.length)  # type: ignore[arg-type]
    return encode_users(model, examples, torch.arange(len(examples)))


def one_batch(model: MMM4Rec, domain: DomainData, split: str = "test") -> Batch:
    examples = domain.examples(split, model.config.length)  # type: ignore[arg-type]
    return examples.batch(torch.arange(len(examples)), model.config.length, model.rules.label_time_is_input)


def shifted(domain: DomainData, where: torch.Tensor, days: int = 400) -> DomainData:
    """The same domain, the interactions at the flat positions `where` that much later."""
    times = domain.times.clone()
    times[where] += days * DAY
    return replace(domain, times=times)


# Gaps run into the padding


@torch.no_grad()
def test_real_gaps_register_beside_the_padding(domain: DomainData) -> None:
    """All gaps made zero: what changes of the gap signal of sequences with padding, against its own size."""
    examples = domain.examples("test", 12)
    batch = examples.batch(torch.arange(len(examples)), 12)
    real = torch.arange(12) < batch.lengths[:, None]
    at_once = torch.where(real, batch.times[:, :1], 0)
    assert (batch.lengths < 12).all()
    change = {}
    for compat in MODES:
        norm = GapNorm(12, eps=1e-12)
        with_gaps, without = (
            norm(*gap_inputs(times, batch.lengths, rules(compat))) for times in (batch.times, at_once)
        )
        difference = torch.where(real, with_gaps - without, 0)
        change[compat] = float(difference.norm() / with_gaps.norm())
    assert change["published"] < 0.02
    assert change["default"] > 0.5


def test_a_longer_wait_changes_the_user_vector_only_where_gaps_register(domain: DomainData, small: Config) -> None:
    """The last interaction of every history is 100 days later: sequences with padding."""
    last = domain.examples("test", 12).label - 1
    change = {}
    for compat in MODES:
        model = build(small(compat=compat, length=12), domain)
        # The label is moved along, so that what is seen of it in published mode is the same gap.
        moved = shifted(domain, torch.cat([last, last + 1]), days=100)
        before, after = users(model, domain), users(model, moved)
        change[compat] = float((after - before).norm() / before.norm())
    assert change["default"] > 5 * change["published"]


# The label's time stays in the time input


def test_the_label_time_leaks_into_published_evaluation_only(domain: DomainData, small: Config) -> None:
    """Only the time of the last interaction, the label of the test, moves."""
    label = domain.examples("test", 12).label
    moved = shifted(domain, label)
    for compat in MODES:
        model = build(small(compat=compat, length=12), domain)
        assert torch.equal(users(model, domain), users(model, moved)) == (compat == "default")
        ranks = [rank_labels(model, d, "test").ranks for d in (domain, moved)]
        assert torch.equal(*ranks) == (compat == "default")


def test_the_label_time_leaks_into_published_training_only(
    domain: DomainData, small: Config, quick: Training, tmp_path: Path
) -> None:
    """Users of 4 interactions: the one training example is the first item, labelled with the second, whose time moves.

    The same weights to the last byte are the proof that no label's time was read.
    """
    starts = domain.offsets[:-1][domain.offsets.diff() >= 4]
    place = (starts[:, None] + torch.arange(4)).flatten()
    four = replace(
        domain,
        user_ids=domain.user_ids[: len(starts)],
        offsets=torch.arange(len(starts) + 1) * 4,
        items=domain.items[place],
        times=domain.times[place],
        training=torch.full((len(starts),), 2),
        validation=torch.ones(len(starts), dtype=torch.int64),
    )
    moved = shifted(four, four.examples("training", 6).label)
    training = quick(epochs=1, validate_every=0, keep="last", patience=None)
    for compat in MODES:
        written = []
        for number, data in enumerate((four, moved)):
            out = tmp_path / f"{compat}{number}"
            out.mkdir()
            fit(data, small(compat=compat), training, out)
            written.append((out / "model.safetensors").read_bytes())
        assert (written[0] == written[1]) == (compat == "default")


# Order among equal times


def test_the_order_of_equal_times_is_that_of_the_file(domain_folder: Path) -> None:
    """core/sequences orders by (time, position in the raw file); nothing here orders again."""
    path = domain_folder / "sequences.parquet"
    table = pq.read_table(path)
    lists = table["items"].to_pylist()
    same_day = pa.array([[DAY] * len(items) for items in lists], pa.list_(pa.int64()))
    table = table.set_column(table.schema.get_field_index("times"), "times", same_day)
    for order in (1, -1):
        turned = pa.array([items[::order] for items in lists], pa.list_(pa.int32()))
        pq.write_table(table.set_column(table.schema.get_field_index("items"), "items", turned), path)
        domain = load_domain(domain_folder, domain_folder / "text.parquet", domain_folder / "image.parquet")
        found = [domain.items[a:b].tolist() for a, b in zip(domain.offsets[:-1], domain.offsets[1:], strict=True)]
        assert found == turned.to_pylist()
        assert domain.items[domain.examples("test", 6).label].tolist() == [items[::order][-1] for items in lists]


# tanhshrink behind small weights


def test_the_time_path_is_alive_at_the_start_in_default_mode_only(domain: DomainData, small: Config) -> None:
    """Times in another order: the initialised model does not see it in published mode, and hardly learns to."""
    gradient, change = {}, {}
    squeezed = replace(domain, times=domain.times // (50 * DAY) * DAY)
    for compat in MODES:
        model = build(small(compat=compat, **STILL), domain, spread=0)
        before, after = users(model, domain), users(model, squeezed)
        change[compat] = float((after - before).norm() / before.norm())
        model(one_batch(model, domain)).backward()
        size = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
        mlp = [size[name] for name in size if "step_scale.mlp" in name and name.endswith("weight")]
        assert len(mlp) == 4, "two in the branches, two in the cross block"
        gradient[compat] = min(mlp) / size["layers.0.branches.inputs.weight"]
    assert gradient["published"] < 1e-8
    assert gradient["default"] > 1e-5
    assert change["published"] < 1e-6
    assert change["default"] > 1e-4


# The padding item as a candidate


def test_the_padding_item_takes_a_place_in_published_mode_only(domain: DomainData, small: Config) -> None:
    """The learned vector of item 0 is turned to what most users want: ranks and loss notice in published mode only."""
    for compat in MODES:
        model = build(small(compat=compat), domain)
        before, loss = rank_labels(model, domain, "test").ranks, model(one_batch(model, domain)).item()
        with torch.no_grad():
            toward = 1e4 * users(model, domain).mean(0)
            model.text_item[0] = model.image_item[0] = toward
        worse = rank_labels(model, domain, "test").ranks - before
        changed = model(one_batch(model, domain)).item() - loss
        if compat == "published":
            assert set(worse.tolist()) == {0.0, 1.0}
            assert abs(changed) > 1e-3
        else:
            assert not worse.any()
            assert changed == 0


# Repeated labels in the batch


def test_a_repeated_label_is_a_negative_in_published_mode_only(domain: DomainData, small: Config) -> None:
    """Users who want the same item: with every label the same there is nothing to tell apart, so no loss."""
    for compat in MODES:
        model = build(small(compat=compat), domain)
        batch = one_batch(model, domain)
        assert batch.labels is not None
        alike = batch._replace(labels=torch.full_like(batch.labels, 7))
        loss = model(alike, in_batch=True).item()
        if compat == "published":
            assert loss == pytest.approx(torch.tensor(float(len(batch.lengths))).log().item(), rel=1e-5)
        else:
            assert loss == 0


# Item vectors trained, then thrown away; two layers, then one


def test_pretraining_has_item_vectors_in_published_mode_only(
    make_domain: Callable[..., DomainData], small: Config, quick: Training, tmp_path: Path
) -> None:
    sources = [make_domain("A"), make_domain("B", seed=1)]
    training = quick(epochs=1, loss="in_batch", validate_every=0, keep="last", patience=None)
    for compat in MODES:
        out = tmp_path / compat
        out.mkdir()
        summary = pretrain(sources, small(compat=compat), training, out)
        stored = load_file(out / "model.safetensors")
        names = {"text_item", "image_item"} & set(stored)
        assert names == ({"text_item", "image_item"} if compat == "published" else set())
        assert summary.parameters == sum(weight.numel() for weight in stored.values())


@both_modes
def test_no_weight_is_lost_without_being_listed(
    make_domain: Callable[..., DomainData], small: Config, quick: Training, tmp_path: Path, compat: Compat
) -> None:
    """Pre-trained with two layers, fine-tuned with one: every weight is taken or listed with a reason."""
    first, second = tmp_path / "pretrained", tmp_path / "finetuned"
    first.mkdir()
    second.mkdir()
    training = quick(epochs=1)
    pretrain([make_domain("A")], small(compat=compat, layers=2), training, first)
    fit(make_domain("T", seed=2), small(compat=compat), training, second, init=first)
    transfer = json.loads((second / "model.json").read_text())["transfer"]
    assert set(transfer["taken"]) | set(transfer["left_out"]) == set(load_file(first / "model.safetensors"))
    assert set(transfer["taken"]) | set(transfer["fresh"]) == set(load_file(second / "model.safetensors"))
    dropped = {name for name in transfer["left_out"] if name.startswith("layers.1.")}
    assert dropped
    assert {transfer["left_out"][name] for name in dropped} == {"the model has 1 of its 2 layers"}
    # What is neither taken nor listed is an error, not a silence.
    with pytest.raises(ModelError, match="1 layers, but the model has 2"):
        fit(make_domain("U", seed=3), small(compat=compat, layers=2), training, tmp_path, init=second)


# One white picture for all items without one


def test_a_shared_white_picture_is_seen_in_published_mode_only(domain: DomainData, small: Config) -> None:
    """Another white: in published mode it moves what items 3 and 4 score; in default mode nothing reads it."""
    vectors = domain.image.vectors.clone()
    vectors[[3, 4]] = 1.0
    white = replace(domain, image=Features(vectors, domain.image.present))
    for compat in MODES:
        tables, seen = [], []
        for data in (domain, white):
            model = build(small(compat=compat, with_id=False), data)
            tables.append(model.score_vectors(model.item_vectors()))
            seen.append(users(model, data))
        moved = (tables[0] != tables[1]).any(dim=1).nonzero()[:, 0].tolist()
        assert moved == ([3, 4] if compat == "published" else [])
        assert torch.equal(*seen) == (compat == "default")
        if compat == "default":  # the text alone, at the weight of both
            text = model.item_vectors()[0]
            torch.testing.assert_close(tables[0][3], 2 * F.normalize(text[3], dim=0) / model.config.temperature)


# Ties and NaN in ranking


@both_modes
def test_a_model_that_scores_everything_alike_is_in_the_middle(
    domain: DomainData, small: Config, compat: Compat
) -> None:
    model = build(small(compat=compat), domain)
    for parameter in (model.text_adapter.weight, model.image_adapter.weight, model.text_item, model.image_item):
        torch.nn.init.zeros_(parameter)
    if compat == "default":
        torch.nn.init.zeros_(model.absent)
        for features in (model.text_present, model.image_present):
            features[1:] = True
    candidates = domain.item_count + (compat == "published")
    assert set(rank_labels(model, domain, "test").ranks.tolist()) == {(1 + candidates) / 2}


@both_modes
def test_a_nan_is_an_error_and_no_rank(domain: DomainData, small: Config, compat: Compat) -> None:
    model = build(small(compat=compat), domain)
    torch.nn.init.constant_(model.layers[0].cross_norm.bias, float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        evaluate(model, domain, "test")


# The D skip, and the activation after the convolutions


@both_modes
def test_the_skip_takes_delta_x(domain: DomainData, small: Config, compat: Compat) -> None:
    """Kept from the published code, where Mamba takes x: with C = 0 nothing but the skip is left."""
    block = build(small(compat=compat), domain).layers[0].branches.state_space
    x, z, dt = torch.randn(2, 3, 32), torch.randn(2, 3, 32), torch.randn(2, 3, 4)
    B, C = torch.randn(2, 3, 16), torch.zeros(2, 3, 16)
    delta = F.softplus(dt + block.dt_bias)
    skip = ((block.skip * delta)[..., None] * x.view(2, 3, 4, 8)).flatten(2)
    torch.testing.assert_close(block(x, B, C, dt, z, None), block.out(block.norm(skip * F.silu(z))))


@both_modes
def test_convolutions_are_followed_by_silu(domain: DomainData, small: Config, compat: Compat) -> None:
    """Also where no compiled convolution is installed: a negative number that Hardswish would cut to 0 passes."""
    model = build(small(compat=compat), domain)
    branches, found = model.layers[0].branches, {}
    with torch.no_grad():
        branches.conv.weight.zero_()
        branches.conv.bias.fill_(-4.0)

    def keep(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found["x"] = given[0]

    branches.state_space.register_forward_pre_hook(keep)
    model(one_batch(model, domain))
    torch.testing.assert_close(found["x"], torch.full_like(found["x"], float(F.silu(torch.tensor(-4.0)))))
    assert not F.hardswish(torch.tensor(-4.0))


# Parameters made for one L


@both_modes
def test_a_checkpoint_says_its_length_and_loads_at_no_other(
    domain: DomainData, small: Config, quick: Training, tmp_path: Path, compat: Compat
) -> None:
    out = tmp_path / "six"
    out.mkdir()
    fit(domain, small(compat=compat), quick(epochs=1), out)
    with safe_open(out / "model.safetensors", framework="pt") as opened:
        assert json.loads(opened.metadata()["mmm4rec"])["config"]["length"] == 6
    assert load_model(out, domain).config.length == 6
    with pytest.raises(ModelError, match=r"trained with length 6, but the model has 9; .*set length to 6"):
        fit(domain, small(compat=compat, length=9), quick(epochs=1), tmp_path, init=out)
