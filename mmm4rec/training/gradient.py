"""The gradient of one optimiser step, at the least cost: parts of one length, item vectors computed once.

What is added up is what the batches of the step, one by one, would give: gradients are linear in the losses, and the
weights do not change between them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mmm4rec.data import Examples, Part
from mmm4rec.model.recommender import Recommender, StepItems


def accumulate(
    model: Recommender,
    examples: Examples,
    parts: Sequence[Part],
    *,
    in_batch: bool = False,
    items: StepItems | None = None,
    call: Callable[..., Tensor] | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
    around: Callable[[int], AbstractContextManager[None]] = lambda place: nullcontext(),
) -> Tensor:
    """Add the gradients of a step to the parameters; the losses [parts], each times the number of its examples.

    Args:
        model: in training mode, its gradients cleared.
        examples: what `parts` (of `Examples.steps`) index, on the model's device.
        parts: of the step.
        in_batch: the loss over the labels of the batch; the parts must then be whole batches (`tokens` None).
        items: `model.step_items()` for the loss over all items; None: every part computes them anew.
        call: the model as wrapped for its device or precision. None: the model itself.
        backward: how a loss is sent back (Fabric has its own way).
        around: what holds while the part of that place is computed.
    """
    leaks = model.rules.label_time_is_input
    losses = []
    for place, (chosen, longest, share) in enumerate(parts):
        with around(place):
            loss = (call or model)(examples.batch(chosen, longest, leaks), in_batch, items)
            backward(loss * share)
        losses.append(loss.detach() * len(chosen))
    if items is not None:
        items.backward()
    return torch.stack(losses)
