"""The gradient of one optimiser step, at the least cost: parts of one length, item vectors computed once.

What is added up is what the batches of the step, one by one, would give: gradients are linear in the losses, and the
weights do not change between them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmm4rec.data import Examples, Part
from mmm4rec.model import MMM4Rec

TOKENS = 2048
"""Padded positions of a part: activations of some 30 MiB at the published sizes, which the allocator keeps, and
products still wide enough to run at full speed. Measured by `benchmarks.training`."""


def accumulate(
    model: MMM4Rec,
    examples: Examples,
    parts: Sequence[Part],
    *,
    call: Callable[..., Tensor] | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Tensor:
    """Add the gradients of a step over all items to the parameters; the losses [parts], each times its examples.

    Args:
        model: in training mode, its gradients cleared.
        examples: what `parts` (of `Examples.steps`) index.
        call: the model as wrapped for its device or precision. None: the model itself.
        backward: how a loss is sent back (Fabric has its own way).
    """
    leaks = model.rules.label_time_is_input
    items = model.step_items()
    losses = []
    for index, longest, share in parts:
        loss = (call or model)(examples.batch(index, longest, leaks), items=items)
        backward(loss * share)
        losses.append(loss.detach() * len(index))
    items.backward()
    return torch.stack(losses)
