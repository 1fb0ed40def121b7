"""A recorder for a CPU that behaves like a CUDA graph: it repeats the recorded operations on the same memory.

Like a CUDA graph, it ignores what Python would do differently the second time: numbers that were read at the recording
stay as they were, tensors that were created then are filled again in place, and an operation that reads a number from a
tensor is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ReadError(RuntimeError):
    """An operation cannot be recorded, because it reads a number from the device or its shape depends on the data."""


REFUSED = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten._unique2.default,
}


class Tape(TorchDispatchMode):
    """The operations of a work, in order, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, dict[str, Any], list[torch.Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function in REFUSED:
            raise ReadError(f"{function} cannot be recorded")
        kept = views((arguments, named or {}))
        found = function(*arguments, **(named or {}))
        self.operations.append((function, *kept, tensors(views(found))))
        return found

    def repeat(self) -> None:
        with torch.no_grad():
            for function, arguments, named, results in self.operations:
                again = tensors(function(*views(arguments), **views(named)))
                for old, new in zip(results, again, strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def views(value: Any) -> Any:
    """The same arguments with other views of the same memory: an operation may change a tensor's shape in place.

    PyTorch's own functions for trees do this too, five times as slowly.
    """
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)):
        return type(value)(map(views, value))
    if isinstance(value, dict):
        return {key: views(each) for key, each in value.items()}
    return value


def tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of an operation's result: one, several or none."""
    results = result if isinstance(result, (list, tuple)) else [result]
    return [one for one in results if isinstance(one, torch.Tensor)]


class Tapes:
    """A `mmm4rec.training.recording.Recorder`. `recorded` is the number of recordings, `repeated` of repetitions."""

    def __init__(self) -> None:
        self.recorded = self.repeated = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        with tape:
            work()
        self.recorded += 1

        def repeat() -> None:
            self.repeated += 1
            tape.repeat()

        return repeat
