"""Each model against an independent computation of its equations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.baselines.bsarec import FrequencyFilter
from mmm4rec.baselines.config import BASELINES, BSARecConfig, UniSRecConfig
from mmm4rec.baselines.gru4rec import GRU4Rec
from mmm4rec.baselines.mamba4rec import Mamba, Mamba4Rec, selective_scan
from mmm4rec.baselines.sasrec import SASRec
from mmm4rec.baselines.tim4rec import TiM4Rec
from mmm4rec.baselines.unisrec import ExpertAdaptor, UniSRec
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.mmm4rec import FeedForward

Small = Callable[..., Any]
B, T, H = 3, 5, 16


def spread(module: nn.Module, seed: int = 0) -> None:
    """Weights so far from their start that every term shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(B, T, H, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch() -> Batch:
    times = torch.tensor([[0, 1, 5, 90, 91, 400]] * B) * 86_400 + 1_300_000_000
    return Batch(torch.ones(B, T, dtype=torch.int64), times, torch.full((B,), T), None)


def test_gru4rec_is_the_recurrence(domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch) -> None:
    model = GRU4Rec(small_one("gru4rec"), domain).eval()
    spread(model)
    W, U = model.gru.weight_ih_l0, model.gru.weight_hh_l0
    state, expected = torch.zeros(B, 16), []
    for x in tokens.unbind(1):
        from_x, from_state = (x @ W.T).chunk(3, dim=1), (state @ U.T).chunk(3, dim=1)
        r, z = (torch.sigmoid(from_x[i] + from_state[i]) for i in (0, 1))
        n = torch.tanh(from_x[2] + r * from_state[2])
        state = (1 - z) * n + z * state
        expected.append(state @ model.out.weight.T + model.out.bias)
    torch.testing.assert_close(model.encode(tokens, batch), torch.stack(expected, 1), rtol=1e-4, atol=1e-5)


def test_sasrec_is_torchs_transformer(domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch) -> None:
    model = SASRec(small_one("sasrec"), domain).eval()
    spread(model)
    x = F.layer_norm(tokens + model.positions[:T], (H,), model.norm.weight, model.norm.bias, eps=1e-12)
    causal = nn.Transformer.generate_square_subsequent_mask(T)
    for attention, ffn in model.layers:  # type: ignore[misc]
        theirs = nn.TransformerEncoderLayer(H, 2, 16, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True).eval()
        renamed = {
            "self_attn.in_proj": attention.inputs, "self_attn.out_proj": attention.out, "norm1": attention.norm,
            "linear1": ffn.widen, "linear2": ffn.narrow, "norm2": ffn.norm,
        }  # fmt: skip
        theirs.load_state_dict(
            {
                f"{name}{'_' if name.endswith('in_proj') else '.'}{kind}": parameter
                for name, module in renamed.items()
                for kind, parameter in module.named_parameters()
            }
        )
        x = theirs(x, src_mask=causal, is_causal=True)
    torch.testing.assert_close(model.encode(tokens, batch), x, rtol=1e-4, atol=1e-5)


def test_without_positions_sasrec_sees_a_set(
    domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch
) -> None:
    """In one layer: a second one sees what earlier positions had seen before them."""
    model = SASRec(small_one("sasrec", layers=1), domain).eval()
    spread(model)
    mixed = tokens[:, [2, 0, 3, 1, 4]]
    before, after = model.encode(tokens, batch), model.encode(mixed, batch)
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3
    with torch.no_grad():
        model.positions.zero_()
    before, after = model.encode(tokens, batch), model.encode(mixed, batch)
    torch.testing.assert_close(before[:, -1], after[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cutoff", "length"), [(1, 6), (3, 6), (5, 7), (7, 7)])
def test_bsarec_filters_by_the_discrete_fourier_transform(tokens: Tensor, cutoff: int, length: int) -> None:
    """Against numpy's transform of all frequencies, of which the constant and the lowest pairs are low."""
    layer = FrequencyFilter(BSARecConfig(hidden=H, length=length, cutoff=cutoff))
    spread(layer)
    x = np.zeros((B, length, H))
    x[:, :T] = tokens.numpy()
    frequency = np.arange(length)
    basis = np.exp(-2j * np.pi * np.outer(frequency, frequency) / length)
    low_ones = np.minimum(frequency, length - frequency) <= cutoff // 2
    assert low_ones.sum() == cutoff
    low = (np.conj(basis) @ (low_ones[:, None] * (basis @ x)) / length).real
    expected = low + layer.beta.detach().numpy() ** 2 * (x - low)
    torch.testing.assert_close(layer.filtered(tokens).double(), torch.from_numpy(expected)[:, :T], rtol=1e-4, atol=1e-4)
    if cutoff == length:
        torch.testing.assert_close(layer.filtered(tokens), tokens, rtol=1e-4, atol=1e-4)


def test_bsarec_with_no_filter_is_sasrec(domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch) -> None:
    from mmm4rec.baselines.bsarec import BSARec

    ours, theirs = BSARec(small_one("bsarec", alpha=1e-9), domain).eval(), SASRec(small_one("sasrec"), domain).eval()
    spread(theirs)
    weights = {
        name.replace(".0.attention.", ".0."): w for name, w in ours.state_dict().items() if ".filter." not in name
    }
    assert weights.keys() == theirs.state_dict().keys()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(theirs.state_dict()[name])
    torch.testing.assert_close(ours.encode(tokens, batch), theirs.encode(tokens, batch), rtol=1e-4, atol=1e-5)


def test_unisrec_mixes_whitening_experts() -> None:
    adaptor = ExpertAdaptor(7, UniSRecConfig(hidden=H, experts=3, dropout_adapter=0.0)).eval()
    spread(adaptor)
    adaptor.requires_grad_(False)
    texts = torch.randn(4, 7, generator=torch.Generator().manual_seed(2))
    for x, found in zip(texts, adaptor(texts), strict=True):
        chances = [float(torch.exp(x @ adaptor.gate[:, k])) for k in range(3)]
        expected = sum(chances[k] / sum(chances) * ((x - adaptor.shift[k]) @ adaptor.maps[k]) for k in range(3))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(adaptor(texts), adaptor(texts))
    adaptor.train()
    assert not torch.equal(adaptor(texts), adaptor(texts)), "the gates are noisy in training"


def test_unisrec_scores_are_cosines_over_the_temperature(domain: DomainData, small_one: Small) -> None:
    model = UniSRec(small_one("unisrec"), domain).eval()
    spread(model)
    examples = domain.examples("test", 6)
    batch = examples.batch(torch.arange(len(examples)), 6)
    with torch.no_grad():
        vectors = model.item_vectors()
        users = model.user_vectors(batch, vectors, batch.items)
        scores = users @ model.score_vectors(vectors).T
        encoded = model.encode(vectors[0][batch.items], batch)[torch.arange(len(users)), batch.lengths - 1]
    for user in range(3):
        expected = F.cosine_similarity(encoded[user][None], vectors[0]) / 0.07
        torch.testing.assert_close(scores[user], expected, rtol=1e-4, atol=1e-4)


def test_mambas_scan_is_its_recurrence() -> None:
    """Number by number."""
    generator = np.random.default_rng(0)
    x, delta = generator.normal(size=(2, 4, 3)), generator.uniform(0.1, 2, size=(2, 4, 3))
    A, B_, C = -generator.uniform(0.1, 2, size=(3, 2)), *generator.normal(size=(2, 2, 4, 2))
    expected = np.zeros((2, 4, 3))
    for b in range(2):
        for d in range(3):
            h = [0.0, 0.0]
            for t in range(4):
                for s in range(2):
                    h[s] = np.exp(delta[b, t, d] * A[d, s]) * h[s] + delta[b, t, d] * B_[b, t, s] * x[b, t, d]
                    expected[b, t, d] += C[b, t, s] * h[s]
    found = selective_scan(*(torch.from_numpy(m) for m in (x, delta, A, B_, C)))
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_mambas_block_is_its_equations(small_one: Small, tokens: Tensor) -> None:
    block = Mamba(small_one("mamba4rec"))
    spread(block)
    with torch.no_grad():
        found = block(tokens)[1]
        xz = tokens[1] @ block.inputs.weight.T
        x, z = xz[:, :32], xz[:, 32:]
        weight = block.conv.weight[:, 0]
        x = F.silu(
            torch.stack(
                [sum(weight[:, 3 - k] * x[t - k] for k in range(4) if t >= k) + block.conv.bias for t in range(T)]
            )
        )
        rank, B_, C = torch.split(x @ block.selection.weight.T, [1, 4, 4], dim=1)
        delta = torch.log(1 + torch.exp(rank @ block.steps.weight.T + block.steps.bias))
        h, outputs = torch.zeros(32, 4), []
        for t in range(T):
            h = torch.exp(-delta[t][:, None] * block.A_log.exp()) * h + (delta[t] * x[t])[:, None] * B_[t]
            outputs.append((h @ C[t] + block.skip * x[t]) * z[t] * torch.sigmoid(z[t]))
        expected = torch.stack(outputs) @ block.out.weight.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_mamba4rec_has_residuals_only_between_layers(
    domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch, layers: int
) -> None:
    model = Mamba4Rec(small_one("mamba4rec", layers=layers), domain).eval()
    x = F.layer_norm(tokens, (H,), eps=1e-12)
    for layer in model.layers:
        with torch.no_grad():
            layer.mamba.out.weight.zero_()  # type: ignore[union-attr]
        x = layer.ffn(layer.norm(x if layers > 1 else torch.zeros_like(x)))  # type: ignore[operator]
    torch.testing.assert_close(model.encode(tokens, batch), x)


def test_tim4rec_sees_gaps_and_not_the_date(domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch) -> None:
    model = TiM4Rec(small_one("tim4rec"), domain).eval()
    spread(model)
    encoded = model.encode(tokens, batch)
    later = batch._replace(times=batch.times + 86_400 * 365)
    torch.testing.assert_close(model.encode(tokens, later), encoded)
    stretched = batch._replace(times=batch.times[:, :1] + 3 * (batch.times - batch.times[:, :1]))
    assert (model.encode(tokens, stretched) - encoded).abs().max() > 1e-3


def test_tim4rec_is_the_same_by_its_recurrence(
    domain: DomainData, small_one: Small, tokens: Tensor, batch: Batch
) -> None:
    forms = [TiM4Rec(small_one("tim4rec"), domain, form).eval() for form in ("quadratic", "sequential")]
    for model in forms:
        spread(model)
    torch.testing.assert_close(*(model.encode(tokens, batch) for model in forms), rtol=1e-4, atol=1e-5)


def test_a_feed_forward_network_of_zeros_is_a_norm() -> None:
    ffn = FeedForward(H, 8, 0.0, 1e-12)
    with torch.no_grad():
        ffn.narrow.weight.zero_()
        ffn.narrow.bias.zero_()
    x = torch.randn(2, H)
    torch.testing.assert_close(ffn(x), F.layer_norm(x, (H,), eps=1e-12))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # 1,000 items and padding, 64 wide, text 768 wide.
        ("gru4rec", 1001 * 64 + 3 * 128 * (64 + 128) + 129 * 64),
        ("sasrec", 1001 * 64 + 20 * 64 + 128 + 2 * (4 * 65 * 64 + 128 + 65 * 256 + 257 * 64 + 128)),
        ("sasrec_text", 769 * 64 + 64 + 20 * 64 + 128 + 2 * (4 * 65 * 64 + 128 + 65 * 256 + 257 * 64 + 128)),
        ("bsarec", 1001 * 64 + 20 * 64 + 128 + 2 * (4 * 65 * 64 + 128 + 65 * 256 + 257 * 64 + 128 + 64 + 128)),
        (
            "mamba4rec",
            1001 * 64 + 128
            + 64 * 256 + 128 * 5 + 128 * (4 + 64) + 5 * 128 + 128 * 32 + 128 + 128 * 64
            + 128 + 65 * 256 + 257 * 64 + 128,
        ),
        (
            "unisrec",
            8 * (768 + 768 * 300) + 2 * 768 * 8 + 300 + 20 * 300 + 600
            + 2 * (4 * 301 * 300 + 600 + 301 * 256 + 257 * 300 + 600),
        ),
    ],
)  # fmt: skip
def test_published_sizes_give_so_many_parameters(
    make_domain: Callable[..., DomainData], name: str, parameters: int
) -> None:
    from mmm4rec.registry import make

    model = make(BASELINES[name].config, make_domain(items=1000, widths=(768, 5)))  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
