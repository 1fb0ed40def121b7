"""What the model must do whatever its weights are, and how the default mode mends the published defects."""

from collections.abc import Callable

import pytest
import torch

from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.errors import ModelError
from mmm4rec.model.compat import rules
from mmm4rec.model.gaps import GapNorm, StepScale, gap_inputs
from mmm4rec.model.losses import in_batch_cross_entropy
from mmm4rec.model.mmm4rec import MMM4Rec

Config = Callable[..., ModelConfig]
DAY = 86_400
VARIANTS = [
    {},
    {"with_id": False},
    {"layers": 2},
    {"use_time": False},
    {"groups": 1},
    {"use_ffn": False},
    {"fusion": "dynamic_shared"},
    {"fusion": "dynamic_instance"},
    {"length": 1},
    {"compat": "published"},
    {"compat": "published", "layers": 2, "with_id": False},
]


def build(config: ModelConfig, domain: DomainData, seed: int = 0, spread: float = 0.3) -> MMM4Rec:
    """A model in eval mode whose weights are large enough for every path to matter."""
    torch.manual_seed(seed)
    model = MMM4Rec(config, domain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model.eval()


def everyone(domain: DomainData, length: int, leak: bool = False) -> Batch:
    examples = domain.examples("test", length)
    return examples.batch(torch.arange(len(examples)), length, leak)


def users(model: MMM4Rec, batch: Batch) -> torch.Tensor:
    return model.user_vectors(batch, model.item_vectors(), batch.items)


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_variant_learns_from_both_losses(domain: DomainData, small: Config, changes: dict) -> None:
    model = build(small(**changes), domain, spread=0.05).train()
    batch = everyone(domain, model.config.length)
    for in_batch in (False, True):
        model.zero_grad()
        loss = model(batch, in_batch)
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("changes", VARIANTS)
def test_only_the_longest_sequence_is_computed_and_it_is_exact(
    domain: DomainData, small: Config, changes: dict
) -> None:
    model = build(small(**changes), domain)
    length = model.config.length
    examples = domain.examples("test", length)
    padded = users(model, everyone(domain, length))
    for longest in range(1, length + 1):
        index = (examples.lengths == longest).nonzero()[:, 0]
        if len(index):
            torch.testing.assert_close(users(model, examples.batch(index, longest)), padded[index])


@pytest.mark.parametrize("changes", VARIANTS[:-2])
def test_nothing_after_the_last_interaction_matters(domain: DomainData, small: Config, changes: dict) -> None:
    model = build(small(**changes), domain)
    batch = everyone(domain, model.config.length)
    after = torch.arange(model.config.length) >= batch.lengths[:, None]
    later = batch._replace(
        items=torch.where(after, torch.randint(1, 16, batch.items.shape), batch.items),
        times=torch.where(after, batch.times + torch.randint(1, 10**9, batch.times.shape), batch.times),
    )
    torch.testing.assert_close(users(model, later), users(model, batch))


def test_published_mode_sees_times_after_the_last_interaction(domain: DomainData, small: Config) -> None:
    """The two defects of the time input: gaps run into the padding, and the label's time may be among them."""
    model = build(small(compat="published"), domain)
    batch, leaked = everyone(domain, 6), everyone(domain, 6, leak=True)
    assert not torch.allclose(users(model, leaked), users(model, batch))


@pytest.mark.parametrize("in_batch", [False, True])
def test_an_overridden_ssd_form_gives_the_same_loss(domain: DomainData, small: Config, in_batch: bool) -> None:
    batch = everyone(domain, 6)
    losses = []
    for form in ("quadratic", "sequential"):
        torch.manual_seed(0)
        losses.append(MMM4Rec(small(), domain, form).eval()(batch, in_batch).item())  # type: ignore[arg-type]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_order_and_time_are_seen(domain: DomainData, small: Config) -> None:
    model = build(small(), domain)
    items, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    times = torch.tensor([[0, 1, 2, 0, 0, 0]]) * DAY + DAY
    batch = Batch(items, times, lengths, None)
    base = users(model, batch)
    assert not torch.allclose(base, users(model, batch._replace(items=torch.tensor([[2, 1, 3]]))), atol=1e-4)
    slower = times.clone()
    slower[0, 2] += 60 * DAY
    assert not torch.allclose(base, users(model, batch._replace(times=slower)), atol=1e-4)
    assert torch.allclose(base, users(model, batch._replace(times=times + 1000 * DAY)), atol=1e-5)


def test_gaps_run_between_real_interactions_only() -> None:
    times = torch.tensor([[10 * DAY, 11 * DAY, 0, 0]])
    lengths = torch.tensor([2])
    gaps, real = gap_inputs(times, lengths, rules("default"))
    assert gaps[0].tolist() == pytest.approx([0, float(torch.log(torch.tensor(2.0))), 0, 0])
    assert real is not None
    assert real.tolist() == [[True, True, False, False]]
    gaps, real = gap_inputs(times, lengths, rules("published"))
    assert gaps[0].tolist() == [0, DAY, -11 * DAY, 0]
    assert real is None


def test_published_gaps_drown_in_the_padding() -> None:
    """With padding, the published norm leaves a real gap of 100 days below 1% of its scale; the default does not."""
    times = torch.tensor([[1_500_000_000, 1_500_000_000 + 100 * DAY, 0, 0, 0, 0]])
    lengths = torch.tensor([2])
    same = times.clone()
    same[0, 1] = same[0, 0]
    shift = {}
    for compat in ("published", "default"):
        norm = GapNorm(6, eps=1e-12)
        (with_gap, real), (without, _) = (gap_inputs(t, lengths, rules(compat)) for t in (times, same))
        shift[compat] = (norm(with_gap, real) - norm(without, real))[0, :2].abs().max().item()
    assert shift["published"] < 0.02
    assert shift["default"] > 0.5


def test_the_gap_norm_reads_real_positions_only() -> None:
    norm = GapNorm(5, eps=1e-12)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    real = torch.tensor([[True, True, True, False, False]])
    x = torch.randn(1, 5)
    other = torch.where(real, x, torch.randn(1, 5))
    assert torch.equal(norm(x, real), norm(other, real))
    assert not norm(x, real)[0, 3:].any()
    # The size of a gap survives in a sequence of two.
    pair = torch.tensor([[True, True, False, False, False]])
    short, long = (norm(torch.tensor([[0, gap, 0, 0, 0]]), pair)[0, 1] for gap in (0.5, 5.0))
    assert not torch.isclose(short, long, rtol=0.1)


def test_the_time_path_learns_from_the_start(domain: DomainData, small: Config) -> None:
    """Published start: the MLP behind tanhshrink has a vanishing gradient. Default start: one like its neighbours'."""
    gradient = {}
    for compat in ("published", "default"):
        torch.manual_seed(0)
        model = MMM4Rec(small(compat=compat), domain).eval()
        model(everyone(domain, 6)).backward()
        norms = [
            float(p.grad.norm()) for n, p in model.named_parameters() if "mlp_in.weight" in n and p.grad is not None
        ]
        outer = model.layers[0].branches.inputs.weight.grad
        gradient[compat] = min(norms) / float(outer.norm())
    assert gradient["published"] < 1e-5
    assert gradient["default"] > 1e-4
    assert gradient["default"] > 1000 * gradient["published"]


def test_the_time_path_starts_as_plain_mamba() -> None:
    scale = StepScale(6, 2, 4, dropout=0.0)
    scale.reset_parameters(rules("default"))
    still = scale(torch.zeros(3, 2, 6))
    torch.testing.assert_close(still, torch.ones_like(still))
    assert scale(torch.randn(3, 2, 6)).std() > 0.1


def test_padding_is_no_candidate(domain: DomainData, small: Config) -> None:
    batch = everyone(domain, 6)
    for compat, candidate in (("default", False), ("published", True)):
        model = build(small(compat=compat), domain)
        table = model.score_vectors(model.item_vectors())
        scores = model.scores(users(model, batch), table)
        assert bool(scores[:, 0].isfinite().all()) == candidate
        assert scores[:, 1:].isfinite().all()
        later = model.scores(users(model, batch), table[3:], 3)
        torch.testing.assert_close(later, scores[:, 3:])
        model(batch).backward()
        assert model.text_item.grad is not None
        # Padding is embedded but read by nobody, unless it is a candidate.
        assert bool(model.text_item.grad[0].any()) == candidate


def test_a_repeated_label_is_no_negative() -> None:
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([5, 7, 5, 9])
    found = in_batch_cross_entropy(scores, labels, rules("default"))
    kept = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    expected = [scores[i, columns].logsumexp(0) - scores[i, i] for i, columns in enumerate(kept)]
    torch.testing.assert_close(found, torch.stack(expected).mean())
    published = in_batch_cross_entropy(scores, labels, rules("published"))
    torch.testing.assert_close(published, torch.nn.functional.cross_entropy(scores, torch.arange(4)))


def test_in_batch_loss_is_the_full_scores_at_the_labels(domain: DomainData, small: Config) -> None:
    model = build(small(), domain)
    batch = everyone(domain, 6)
    assert batch.labels is not None
    scores = model.scores(users(model, batch), model.score_vectors(model.item_vectors()))
    expected = in_batch_cross_entropy(scores[:, batch.labels], batch.labels, model.rules)
    torch.testing.assert_close(model(batch, in_batch=True), expected)


def test_a_missing_picture_is_absent_not_a_vector(domain: DomainData, small: Config) -> None:
    """Items 3 and 4 have no picture: they are scored by twice their text, and read as the learned vector."""
    model = build(small(with_id=False), domain)
    text, image = model.item_vectors()
    torch.testing.assert_close(image[3], model.absent[1])
    torch.testing.assert_close(image[3], image[4])
    table = model.score_vectors(torch.stack([text, image]))
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(table[3], 2 * unit(text[3], dim=0) / 0.8)
    torch.testing.assert_close(table[5], (unit(text[5], dim=0) + unit(image[5], dim=0)) / 0.8)
    published = build(small(with_id=False, compat="published"), domain)
    torch.testing.assert_close(published.item_vectors()[1, 3], published.image_adapter.bias)


def test_a_domain_without_pictures_works(make_domain: Callable[..., DomainData], small: Config) -> None:
    domain = make_domain(absent_images=tuple(range(1, 16)))
    model = MMM4Rec(small(), domain)
    loss = model(everyone(domain, 6))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_labels_has_no_loss(domain: DomainData, small: Config) -> None:
    batch = everyone(domain, 6)._replace(labels=None)
    with pytest.raises(ModelError, match="without labels"):
        MMM4Rec(small(), domain)(batch)


def test_published_sizes_have_the_published_number_of_parameters(make_domain: Callable[..., DomainData]) -> None:
    domain = make_domain(widths=(768, 768))
    count = {
        with_id: sum(p.numel() for p in MMM4Rec(ModelConfig(compat="published", with_id=with_id), domain).parameters())
        for with_id in (False, True)
    }
    assert count[False] == 1_999_085
    assert count[True] == 1_999_085 + 2 * 16 * 256
