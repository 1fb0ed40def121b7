"""Every fast form of the training step is held to the plain one, in value and gradient, without dropout."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from benchmarks.published_step import Prefixes, PublishedModel
from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import TOKENS
from mmm4rec.evaluation.ranking import evaluate
from mmm4rec.model import losses
from mmm4rec.model.compat import rules
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.gaps import CausalConv
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.model.picking import at
from mmm4rec.training.gradient import accumulate

Config = Callable[..., ModelConfig]
Tensors = tuple[torch.Tensor, ...]


def same(plain: Callable[[], torch.Tensor], fast: Callable[[], torch.Tensor], inputs: Tensors) -> None:
    """Equal values, and equal gradients of a random weighting of them with respect to `inputs`."""
    expected, found = plain(), fast()
    torch.testing.assert_close(found, expected)
    weighting = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, inputs, weighting, materialize_grads=True),
        torch.autograd.grad(expected, inputs, weighting, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def build(config: ModelConfig, domain: DomainData) -> MMM4Rec:
    """In float64 and training mode, with weights large enough for every path to matter, without dropout."""
    torch.manual_seed(0)
    model = MMM4Rec(config, domain).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
    return model


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(("length", "width"), [(1, 4), (3, 4), (4, 4), (9, 4), (9, 3), (5, 1)])
def test_the_convolution_is_torchs(length: int, width: int) -> None:
    conv = CausalConv(6, width).double()
    x = torch.randn(5, length, 6, dtype=torch.float64, requires_grad=True)

    def plain() -> torch.Tensor:
        padded = F.pad(x.transpose(1, 2), (width - 1, 0))
        return F.silu(F.conv1d(padded, conv.weight, conv.bias, groups=6)).transpose(1, 2)

    same(plain, lambda: conv(x), (x, conv.weight, conv.bias))
    last = torch.randint(0, length, (5,))
    window = last[:, None] + torch.arange(1 - width, 1)
    same(
        lambda: plain()[torch.arange(5), last],
        lambda: conv.at_last(at(x, window.clamp(min=0)), window >= 0),
        (x, conv.weight, conv.bias),
    )


@pytest.mark.parametrize(
    "changes", [{}, {"groups": 1}, {"use_time": False}, {"use_ffn": False}, {"compat": "published"}, {"conv_width": 2}]
)
@pytest.mark.parametrize("longest", [1, 3, 6])
def test_the_top_layer_at_the_last_position_is_the_whole_layer(
    domain: DomainData, small: Config, changes: dict, longest: int
) -> None:
    model = build(small(**changes), domain)
    layer = model.layers[0]
    last = torch.randint(0, longest, (7,))
    tokens = torch.randn(14, longest, 16, dtype=torch.float64, requires_grad=True)
    D = None if changes == {"use_time": False} else torch.randn(14, 4, 6, dtype=torch.float64)
    real = None if D is None or "compat" in changes else (torch.arange(6) <= last.repeat(2)[:, None])[:, None]
    same(
        lambda: layer(tokens, D, real)[1][torch.arange(7), last],
        lambda: layer.at_last(tokens, D, real, last),
        (tokens, *layer.parameters()),
    )


@pytest.mark.parametrize("compat", ["default", "published"])
@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_the_loss_over_all_items_is_torchs(compat: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.BLOCK, "cpu", block)
    rule = rules(compat)  # type: ignore[arg-type]
    users, table = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (9, 12))
    labels = torch.randint(1, 12, (9,))

    def plain() -> torch.Tensor:
        scores = users @ table.T
        if not rule.padding_is_candidate:
            scores = scores.masked_fill(torch.arange(12) == 0, -math.inf)
        return F.cross_entropy(scores, labels)

    same(plain, lambda: losses.full_cross_entropy(users, table, labels, rule), (users, table))


@pytest.mark.parametrize("changes", [{}, {"compat": "published"}, {"fusion": "dynamic_instance"}, {"with_id": False}])
@pytest.mark.parametrize("tokens", [6, 40, None])
def test_a_step_in_parts_has_the_gradient_of_its_batches(
    domain: DomainData, small: Config, changes: dict, tokens: int | None
) -> None:
    """The batches as a plain trainer takes them: random, padded to L, item vectors computed for each."""
    model = build(small(**changes), domain)
    examples = domain.examples("training", 6)
    leaks = model.rules.label_time_is_input
    whole = 4 * 16
    parts = next(examples.steps(16, 4, seed=3, tokens=tokens))
    chosen = torch.cat([part.chosen for part in parts])
    assert len(chosen) == whole
    expected = torch.zeros(())
    for index in chosen[torch.randperm(whole)].split(16):
        loss = model(examples.batch(index, 6, leaks))
        loss.backward()
        expected = expected + loss.detach() * 16
    plain = gradients(model)
    losses = accumulate(model, examples, parts, items=model.step_items())
    torch.testing.assert_close(losses.sum(), expected, check_dtype=False)
    torch.testing.assert_close(gradients(model), plain)


def test_a_step_within_batches_adds_up_their_losses(domain: DomainData, small: Config) -> None:
    model = build(small(), domain)
    examples = domain.examples("training", 6)
    parts = next(examples.steps(16, 4, seed=3))
    for part in parts:
        model(examples.batch(part.chosen, 6), in_batch=True).backward()
    plain = gradients(model)
    accumulate(model, examples, parts, in_batch=True)
    torch.testing.assert_close(gradients(model), plain)


@pytest.mark.parametrize("compat", ["default", "published"])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(
    domain: DomainData, small: Config, monkeypatch: pytest.MonkeyPatch, compat: str, tokens: int
) -> None:
    model = build(small(compat=compat), domain)
    examples = domain.examples("training", 6)
    batch = examples.batch(torch.randperm(len(examples))[:32], 6, model.rules.label_time_is_input)
    whole = model(batch, in_batch=True)
    whole.backward()
    plain = gradients(model)
    monkeypatch.setitem(TOKENS, "cpu", tokens)
    pieces = list(batch.pieces())
    assert torch.cat([torch.arange(32)[rows] for rows, _ in pieces]).tolist() == list(range(32))
    assert all(piece.items.numel() <= tokens or len(piece.items) == 1 for _, piece in pieces)
    assert torch.cat([piece.items[piece.items > 0] for _, piece in pieces]).equal(batch.items[batch.items > 0])
    found = model(batch, in_batch=True)
    found.backward()
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(gradients(model), plain)


def test_steps_hold_every_example_once_in_parts_of_similar_length(domain: DomainData) -> None:
    examples = domain.examples("training", 6)
    steps = list(examples.steps(16, 3, seed=1, tokens=30))
    chosen = [part.chosen for parts in steps for part in parts]
    assert sorted(torch.cat(chosen).tolist()) == list(range(len(examples)))
    for number, parts in enumerate(steps):
        count = sum(len(part.chosen) for part in parts)
        assert count == min(48, len(examples) - 48 * number)
        # As many mean losses as a plain trainer adds up.
        assert sum(part.share for part in parts) == pytest.approx(math.ceil(count / 16))
        for part in parts:
            assert part.longest == examples.lengths[part.chosen].max()
            assert len(part.chosen) * part.longest <= 30
            assert part.share == pytest.approx(len(part.chosen) * math.ceil(count / 16) / count)
        longest = [part.longest for part in parts]
        assert longest == sorted(longest)
    again, other = ([p.chosen for s in examples.steps(16, 3, seed, 30) for p in s] for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(chosen, again, strict=True))
    assert not torch.equal(torch.cat(chosen), torch.cat(other))
    # A loss that looks across its batch gets batches of one size.
    whole = [len(part.chosen) for parts in examples.steps(16, 3, seed=1) for part in parts]
    assert whole[:-1] == [16] * (len(examples) // 16)
    # A sequence longer than the budget passes alone.
    assert all(len(part.chosen) == 1 for parts in examples.steps(16, 3, seed=1, tokens=1) for part in parts)


def test_a_step_is_a_random_sample(domain: DomainData) -> None:
    """Not one length: every step but the last has the mean length of the whole, within its sampling error."""
    examples = domain.examples("training", 6)
    lengths = examples.lengths.double()
    for seed in range(5):
        for parts in list(examples.steps(10, 5, seed, tokens=20))[:-1]:
            found = lengths[torch.cat([part.chosen for part in parts])].mean()
            assert abs(found - lengths.mean()) < 4 * lengths.std() / math.sqrt(50)


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5])
def test_dropout_drops_its_share(p: float) -> None:
    torch.manual_seed(0)
    dropout, n = Dropout(p), 400_001
    out = dropout(torch.ones(n))
    kept = out != 0
    error = math.sqrt(p * (1 - p) / n)
    assert abs(float(kept.double().mean()) - (1 - p)) < 4 * error
    assert out[kept].unique().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    # Neighbours share a draw of 64 bits: every pair must be independent all the same, and every place alike.
    for distance in range(1, 5):
        both = (kept[distance:] & kept[:-distance]).double().mean()
        assert abs(float(both) - (1 - p) ** 2) < 5 * error
    for place in range(4):
        assert abs(float(kept[place::4].double().mean()) - (1 - p)) < 8 * error


def test_dropout_follows_the_seed_and_sends_its_mask_back() -> None:
    dropout = Dropout(0.4)
    x = torch.randn(3, 5, 7, requires_grad=True)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    first.sum().backward()
    torch.testing.assert_close(x.grad * x, first)
    assert dropout.eval()(x) is x
    # What is not dropped at all costs no draw.
    state = torch.random.get_rng_state()
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.long
def test_bf16_learns_what_float32_learns(make_domain: Callable[..., DomainData], small: Config) -> None:
    """Half the bits in the matrix products change the validation metrics by less than their standard error."""
    domain = make_domain(users=200)
    examples = domain.examples("training", 6)
    found = []
    for narrow in (False, True):
        torch.manual_seed(0)
        model = MMM4Rec(small(), domain).train()
        optimiser = torch.optim.NAdam(model.parameters(), lr=6e-3, foreach=True)
        for epoch in range(2):
            for parts in examples.steps(32, 2, epoch, tokens=200):
                with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                    accumulate(model, examples, parts, items=model.step_items())
                optimiser.step()
                optimiser.zero_grad()
        assert all(p.dtype == torch.float32 for p in model.parameters())
        found.append(evaluate(model, domain, "validation").value("NDCG@10"))
    chance = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 15
    assert min(found) > 1.2 * chance
    assert abs(found[0] - found[1]) < math.sqrt(found[0] * (1 - found[0]) / 200)


def test_the_comparator_is_the_same_model(domain: DomainData, small: Config) -> None:
    """What the benchmark compares with computes the same loss and gradients: nothing is left out on either side."""
    config = small(compat="published")
    model = build(config, domain)
    plain = PublishedModel(config, domain, dict(model.named_parameters())).double().eval()
    plain.register_buffer("text_features", domain.text.vectors.double())
    plain.register_buffer("image_features", domain.image.vectors.double())
    examples, samples = domain.examples("training", 6), Prefixes(domain, 6)
    index = torch.arange(len(examples))
    found = model(examples.batch(index, 6, label_time_is_input=True))
    expected = plain(*(torch.stack(part) for part in zip(*(samples[e] for e in range(len(samples))), strict=True)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    found.backward()
    expected.backward()
    ours, theirs = gradients(model), gradients(plain)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
