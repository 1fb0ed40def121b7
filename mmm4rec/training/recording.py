"""Optimiser steps as recorded work: a GPU repeats a recording without waiting for Python to start its kernels.

One optimiser step of the published sizes starts thousands of small kernels. Started one by one from Python, they take
several times as long as they compute. So the work is recorded once for each shape (CUDA graphs) and then repeated: the
item vectors, each shape of part, and the optimiser. `Examples.steps(fixed_shapes=True)` cuts the steps into parts of
few shapes. A shape is recorded when it comes for the second time; the first time, its kernels are compiled and chosen.

A recording repeats the same computation on the same memory. Therefore everything that changes from part to part is in
tensors that keep their place: the chosen examples, their share, the gradients (set to zero, never removed) and the
state of the optimiser. The random numbers are not part of a recording: a repetition draws them from the current seed.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmm4rec.data.examples import Examples, Part
from mmm4rec.model.recommender import Recommender, StepItems
from mmm4rec.training.gradient import accumulate

Work = Callable[[], None]


class Recorder(Protocol):
    """Records the work of a device."""

    def record(self, work: Work) -> Work:
        """Do `work` once, and return a function that does the same again on the same tensors."""


class CudaGraphs:
    """Records CUDA graphs. They share their memory, because they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        gc.collect()  # the recordings of earlier trainings
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Work) -> Work:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # No garbage collection: it could destroy the recordings of another training, which would end this recording.
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                work()  # recorded, but not done
        finally:
            if collects:
                gc.enable()
        graph.replay()
        return graph.replay


class RecordedSteps:
    """The optimiser steps of a training on one device."""

    def __init__(
        self,
        recorder: Recorder,
        model: Recommender,
        call: Callable[..., Tensor],
        optimiser: Optimizer,
        examples: Examples,
        *,
        in_batch: bool,
        step_items: Callable[[], StepItems],
    ) -> None:
        """`call` calls the model in its precision, and so does `step_items` its `step_items`. The gradients of `model`
        are cleared. `optimiser` is recorded if it is `capturable`."""
        self.recorder, self.model, self.call, self.optimiser = recorder, model, call, optimiser
        self.examples, self.in_batch, self.make_items = examples, in_batch, step_items
        weight = next(model.parameters())
        self.share, self.loss = weight.new_zeros(()), weight.new_zeros(())
        self.chosen: dict[int, Tensor] = {}
        self.items: StepItems | None = None
        self.started = False
        self.recorded: dict[tuple[int, int] | str, Work] = {}
        self.seen: set[tuple[int, int]] = set()

    def step(self, parts: Sequence[Part], seed_of: Callable[[int], int]) -> Tensor:
        """Do one optimiser step. Return the losses [parts], each times its number of examples.

        Args:
            parts: the parts of the step, from `Examples.steps`.
            seed_of: the random seed of the part at a position; -1 stands for computing the item vectors.
        """
        if not self.started:
            self.started = True
            return self._first(parts, seed_of)
        if not self.in_batch:
            torch.manual_seed(seed_of(-1))
            self._do("items", self._compute_items)
        losses = []
        for place, part in enumerate(parts):
            self._do_part(part, seed_of(place))
            losses.append(self.loss.clone())
        if not self.in_batch:
            self._do("back to the items", self._back_to_items)
        if self.optimiser.defaults.get("capturable"):
            self._do("optimiser", self._update)
        else:
            self._update()
        return torch.stack(losses)

    def _first(self, parts: Sequence[Part], seed_of: Callable[[int], int]) -> Tensor:
        """The first step of this process, which creates the gradients and, if need be, the state of the optimiser."""
        items = None
        if not self.in_batch:
            torch.manual_seed(seed_of(-1))
            items = self.make_items()

        @contextmanager
        def seeded(place: int) -> Iterator[None]:
            torch.manual_seed(seed_of(place))
            yield

        losses = accumulate(
            self.model,
            self.examples,
            parts,
            in_batch=self.in_batch,
            items=items,
            call=self.call,
            around=seeded,
        )
        self.seen.update(_shape(part) for part in parts)
        self._update()
        return losses

    def _do(self, name: tuple[int, int] | str, work: Work) -> None:
        if name in self.recorded:
            self.recorded[name]()
        else:
            self.recorded[name] = self.recorder.record(work)

    def _do_part(self, part: Part, seed: int) -> None:
        count, longest = shape = _shape(part)
        chosen = self.chosen.setdefault(count, torch.zeros_like(part.chosen))
        chosen.copy_(part.chosen)
        self.share.fill_(part.share)

        def work() -> None:
            batch = self.examples.batch(chosen, longest, self.model.rules.label_time_is_input)
            loss = self.call(batch, self.in_batch, self.items)
            self._add_gradients(loss * self.share)
            self.loss.copy_(loss.detach() * count)

        torch.manual_seed(seed)
        if shape in self.seen:
            self._do(shape, work)
        else:
            self.seen.add(shape)
            work()

    def _add_gradients(self, loss: Tensor) -> None:
        """As `loss.backward()`, but all additions to the gradients in few kernels instead of one for each weight."""
        leaves: list[Tensor] = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if self.items is not None:
            leaves += [self.items.vectors, self.items.table]
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        totals, gradients = [], []
        for leaf, gradient in zip(leaves, found, strict=True):
            if leaf.grad is None or gradient is None:
                continue
            if leaf.grad.stride() != gradient.stride():  # one such pair would make all of them slow
                leaf.grad.add_(gradient)
                continue
            totals.append(leaf.grad)
            gradients.append(gradient)
        torch._foreach_add_(totals, gradients)

    def _compute_items(self) -> None:
        self.items = self.make_items()
        self.items.start_gradients()

    def _back_to_items(self) -> None:
        if self.items is not None:
            self.items.backward(again=True)

    def _update(self) -> None:
        with warnings.catch_warnings():
            # The first step of an optimiser cannot be recorded, because it creates its state.
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            self.optimiser.step()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_zero_(gradients)


def _shape(part: Part) -> tuple[int, int]:
    return len(part.chosen), part.longest


def recorder_for(device: torch.device) -> Recorder | None:
    """The recorder of a device; None if it has none."""
    return CudaGraphs(device) if device.type == "cuda" else None
