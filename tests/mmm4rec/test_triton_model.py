"""The whole model with our kernels: the loss and the gradients of the model without them."""

from collections.abc import Callable

import pytest
import torch

from tests.mmm4rec.triton_here import DEVICE, errors  # isort: skip  (before triton is imported)

from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData
from mmm4rec.model import kernels
from mmm4rec.model.dropout import Dropout
from mmm4rec.model.mmm4rec import MMM4Rec

Config = Callable[..., ModelConfig]


def result(model: MMM4Rec, domain: DomainData, in_batch: bool) -> list[torch.Tensor]:
    """The loss and the gradients of all weights."""
    examples = domain.examples("training", 6).to(DEVICE)
    batch = examples.batch(torch.arange(48, device=DEVICE), 6, model.rules.label_time_is_input)
    loss = model(batch, in_batch)
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return [loss, *found]


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("changes", [{}, {"compat": "published"}, {"layers": 2}, {"groups": 1}, {"use_time": False}])
def test_the_model_with_kernels_is_the_model(
    domain: DomainData, small: Config, changes: dict, in_batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MMM4Rec(small(**changes), domain).to(DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_triton_missing", lambda device, dtype: "not now")
        expected = result(model.double(), domain, in_batch)
    # In the interpreter, they run on a CPU.
    monkeypatch.setattr(kernels, "_triton_missing", lambda device, dtype: None if dtype == torch.float32 else "wide")
    found = result(model.float(), domain, in_batch)
    assert max(errors([one.double() for one in found], expected, smallest=1e-2)) < 1e-3


def test_dropout_of_the_kernels_follows_the_seed(
    domain: DomainData, small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_triton_missing", lambda device, dtype: None)
    torch.manual_seed(0)
    model = MMM4Rec(small(), domain).to(DEVICE).train()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(result(model, domain, False)[0]))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
