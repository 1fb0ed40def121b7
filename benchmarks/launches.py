"""The operators that one optimiser step of a GPU dispatches, compared with the published step.

``python -m benchmarks.launches [--quick] [--json]``. On a GPU, an operator starts at least one kernel, and a step of
the published sizes takes longer to start its kernels than they need to compute. The operators are counted on torch's
`meta` device: it takes the same path as a GPU, but computes nothing, so that no GPU is needed. Views are not counted,
because they start no kernel. The count is that of a step that is started operator by operator, without our own kernels,
each of which replaces many operators. A GPU repeats most of them as recordings (`mmm4rec.training.recording`);
`recordings_per_step` counts the recordings that a step starts.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import published_step
from benchmarks.measure import arguments, show
from benchmarks.training import ACCUMULATE, BATCH, ITEMS, USERS, config, make_domain, make_model
from mmm4rec.data.examples import TOKENS, Examples
from mmm4rec.training.gradient import accumulate

META = torch.device("meta")


def main() -> None:
    """Count, print."""
    given = arguments(__doc__ or "", tokens=TOKENS["cuda"], most=0)
    users, items, batch = (300, 200, 64) if given.quick else (USERS, ITEMS, BATCH)
    domain = make_domain(users, items)
    examples = domain.examples("training", config().length)
    figures: dict[str, float | int | str] = {}
    for loss in ("full", "in_batch"):
        parts = next(examples.steps(batch, ACCUMULATE, 0, given.tokens if loss == "full" else None, fixed_shapes=True))
        found = _ours(domain, examples, parts, in_batch=loss == "in_batch")
        name = "" if loss == "full" else "in_batch_"
        figures[f"{name}launches_per_step"] = found.total()
        figures[f"{name}parts_per_step"] = len(parts)
        figures[f"{name}recordings_per_step"] = len(parts) + (3 if loss == "full" else 1)
        if given.most:
            print(*(f"{count:6} {name}" for name, count in found.most_common(given.most)), sep="\n")
    plain = _published(domain, batch)
    figures["published_launches_per_step"] = plain
    figures["ratio"] = plain / int(figures["launches_per_step"])
    show(f"operators dispatched by one optimiser step of {batch * ACCUMULATE:,} examples", figures, given.json)


class Count(TorchDispatchMode):
    """Counts operators by name, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator and run it."""
        if not function.is_view and function not in NO_KERNEL:
            self.found[function.name()] += 1
        return function(*args, **(kwargs or {}))


NO_KERNEL = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.detach.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten._reshape_alias.default,
}
"""Operators that only allocate memory or describe it anew."""


def _ours(domain: Any, examples: Examples, parts: list[Any], *, in_batch: bool) -> Counter[str]:
    model = make_model(domain).train().to(META)
    there = examples.to(META)
    optimiser = torch.optim.NAdam(model.parameters(), lr=1e-4, weight_decay=0.005, foreach=True)
    parts = [part._replace(chosen=part.chosen.to(META)) for part in parts]
    with Count() as count:
        items = None if in_batch else model.step_items()
        accumulate(model, there, parts, in_batch=in_batch, items=items)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        _moments(optimiser, gradients)
        torch._foreach_zero_(gradients)
    return count.found


def _moments(optimiser: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
    """The operators of NAdam for all parameters at once."""
    # NAdam itself reads its counters, which a `meta` tensor does not have. As many operators as it dispatches on CUDA.
    for _ in range(NADAM_OPERATORS):
        torch._foreach_mul_(gradients, 1.0)


NADAM_OPERATORS = 20
"""`foreach` operators of one step of `torch.optim.NAdam(foreach=True, capturable=True)`."""


def _published(domain: Any, batch: int) -> int:
    weights = dict(make_model(domain).named_parameters())
    model = published_step.PublishedModel(config(), domain, weights).train().to(META)
    length = model.config.length
    with Count() as count:
        for _ in range(ACCUMULATE):
            items, times = (torch.zeros((batch, length), dtype=torch.int64, device=META) for _ in range(2))
            lengths, labels = (torch.zeros(batch, dtype=torch.int64, device=META) for _ in range(2))
            model(items, times, lengths, labels).backward()
    return count.found.total() + NADAM_OPERATORS * len(weights)


if __name__ == "__main__":
    main()
