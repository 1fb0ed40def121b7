"""Every ablation is a sound model of its own: causal, blind to padding, and without a weight that learns nothing."""

from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmm4rec.comparison.ablations import AblatedMMM4Rec, AblationConfig, AttentionMixer
from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.registry import make
from tests.mmm4rec.conftest import SMALL

TAKEN: list[dict[str, Any]] = [
    {"shared_projection": False},
    {"text_filter": False},
    {"image_filter": False},
    {"cross_filter": False},
    {"mixer": "attention"},
    {"mixer": "attention", "groups": 1, "shared_projection": False, "layers": 2},
]
each = pytest.mark.parametrize("taken", TAKEN, ids=str)


def built(domain: DomainData, **taken: Any) -> AblatedMMM4Rec:
    torch.manual_seed(0)
    model = make(AblationConfig(**{**SMALL, **taken}), domain)
    assert isinstance(model, AblatedMMM4Rec)
    return model.eval()


def examples(domain: DomainData, longest: int = 6) -> Batch:
    found = domain.examples("test", 6)
    return found.batch(torch.arange(len(found)), longest)


def users(model: MMM4Rec, batch: Batch) -> torch.Tensor:
    return model.user_vectors(batch, model.item_vectors(), batch.items)


@each
def test_each_is_another_model_than_the_whole_one(taken: dict[str, Any], domain: DomainData) -> None:
    names = {name for name, _ in built(domain, **taken).named_parameters()}
    torch.manual_seed(0)
    of_model = {field.name for field in fields(ModelConfig)}
    whole = make(ModelConfig(**{**SMALL, **{k: v for k, v in taken.items() if k in of_model}}), domain)
    assert names != {name for name, _ in whole.named_parameters()}


@each
def test_every_weight_learns(taken: dict[str, Any], domain: DomainData) -> None:
    model = built(domain, **taken)
    model(examples(domain)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@each
def test_padding_and_the_company_of_others_change_nothing(taken: dict[str, Any], domain: DomainData) -> None:
    model, batch = built(domain, **taken), examples(domain)
    together = users(model, batch)
    for row in range(4):
        longest = int(batch.lengths[row])
        alone = Batch(
            batch.items[row : row + 1, :longest], batch.times[row : row + 1], batch.lengths[row : row + 1], None
        )
        assert torch.allclose(users(model, alone)[0], together[row], atol=1e-5)


def test_with_nothing_taken_it_is_the_whole_model(domain: DomainData) -> None:
    config = AblationConfig(**SMALL)
    model = built(domain)
    whole = MMM4Rec(ModelConfig(**SMALL), domain).eval()
    whole.load_state_dict(model.state_dict())
    assert torch.equal(users(model, examples(domain)), users(whole, examples(domain)))
    assert asdict(config).items() >= asdict(ModelConfig(**SMALL)).items()


def test_attention_is_a_softmax_over_the_past() -> None:
    torch.manual_seed(1)
    config = ModelConfig(**{**SMALL, "groups": 1})
    block = AttentionMixer(config, "auto").double()
    torch.nn.init.normal_(block.skip)
    x, z = torch.randn(2, 5, config.inner_width).double(), torch.randn(2, 5, config.inner_width).double()
    B, C = torch.randn(2, 5, config.state).double(), torch.randn(2, 5, config.state).double()
    dt = torch.randn(2, 5, config.heads).double()
    found = block(x, B, C, dt, z, None)
    delta = F.softplus(dt + block.dt_bias)
    values = delta[..., None] * x.view(2, 5, config.heads, config.head_width)
    y = torch.empty_like(values)
    for row, place, head in torch.cartesian_prod(*(torch.arange(n) for n in (2, 5, config.heads))).tolist():
        weights = torch.softmax(B[row, : place + 1] @ C[row, place] / config.state**0.5, dim=0)
        y[row, place, head] = weights @ values[row, : place + 1, head] + block.skip[head] * values[row, place, head]
    assert torch.allclose(found, block.out(block.norm(y.flatten(-2) * F.silu(z))))
    last = torch.tensor([4, 2])
    row = torch.arange(2)
    at_last = block.at_last(x, B, C[row, last], dt, z[row, last], None, last)
    assert torch.allclose(at_last, found[row, last])
