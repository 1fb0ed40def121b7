"""The gradient of one optimiser step at the lowest cost: parts of similar length, item vectors computed once.

The sum is the same as the sum over the batches of the step one by one, because gradients are linear in the losses and
the weights do not change within a step.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mmm4rec.data.examples import Examples, Part
from mmm4rec.model.recommender import Recommender, StepItems

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    """Add the gradients of a step to the parameters. Return the losses [parts], each times its number of examples.

    Args:
        model: in training mode, with cleared gradients.
        examples: the examples that `parts` (from `Examples.steps`) index, on the model's device.
        parts: the parts of the step.
        in_batch: use the loss over the labels of the batch; the parts must then be whole batches (`tokens` None).
        items: `model.step_items()` for the loss over all items. None: every part computes the item vectors again.
        call: the model as wrapped for its device or precision. None: the model itself.
        backward: the function for the backward pass of a loss (Fabric has its own).
        around: the context in which the part at a position is computed.
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


def accumulate_on_devices(
    fabric: "Fabric",
    model: Recommender,
    wrapped: Any,
    examples: Examples,
    parts: Sequence[Part],
    *,
    in_batch: bool,
    seed_of: Callable[[int], int],
) -> Tensor:
    """Like `accumulate`, with the parts distributed over the devices of `fabric`: part i to device i mod their count.

    Args:
        fabric: the devices; this process is one of them.
        model: in training mode, with cleared gradients.
        wrapped: the model as returned by `fabric.setup` (its class is private in Fabric).
        examples: the examples that `parts` index, on the model's device.
        parts: the parts of the step, the same on every device.
        in_batch: as for `accumulate`.
        seed_of: the random seed of the part at a position; -1 stands for computing the item vectors.
    """
    rank, count = fabric.global_rank, fabric.world_size
    places = list(range(rank, len(parts), count))
    mine = [parts[place] for place in places]
    if count > 1:
        # The exchange takes the mean of the devices' gradients, but the sum is needed, so each share is multiplied by
        # the number of devices. In a short step, a device without a part contributes a gradient of zero.
        mine = [part._replace(share=part.share * count) for part in mine] or [parts[0]._replace(share=0.0)]
    items = None
    if count == 1 and not in_batch:  # with several devices, DDP needs the item vectors inside the model's forward pass
        # Computing item vectors may be random too (as in UniSRec). It belongs to no part, so it has its own seed.
        torch.manual_seed(seed_of(-1))
        with fabric.autocast():
            items = model.step_items()

    @contextmanager
    def around(turn: int) -> Iterator[None]:
        torch.manual_seed(seed_of(places[turn] if places else 0))
        with fabric.no_backward_sync(wrapped, enabled=turn < len(mine) - 1):
            yield

    losses = accumulate(
        model, examples, mine, in_batch=in_batch, items=items, call=wrapped, backward=fabric.backward, around=around
    )
    if count == 1:
        return losses
    of_all = torch.zeros(len(parts), device=fabric.device)
    of_all[places] = losses[: len(places)]
    return cast(Tensor, fabric.all_reduce(of_all, reduce_op="sum"))


def part_seed(seed: int, epoch: int, step: int, place: int) -> int:
    """The seed of a part's dropout. It depends neither on the device nor on where a run was resumed."""
    digest = hashlib.sha256(f"{seed} {epoch} {step} {place}".encode()).digest()
    return int.from_bytes(digest[:4], "little")  # the CPU's generator uses a seed of 32 bits
