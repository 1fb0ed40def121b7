"""Optimiser steps as `mmm4rec.training.loop` does them, for benchmarks: no validation, no state, no files."""

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import TOKENS
from mmm4rec.devices import on_device
from mmm4rec.model.recommender import Recommender, StepItems
from mmm4rec.training.gradient import accumulate, part_seed
from mmm4rec.training.recording import RecordedSteps, recorder_for


class Steps:
    """The steps of a training on the device of `model`. On a GPU, they are recorded."""

    def __init__(
        self,
        model: Recommender,
        domain: DomainData,
        *,
        batch: int,
        accumulate: int,
        precision: str = "32-true",
        in_batch: bool = False,
        tokens: int = 0,
    ) -> None:
        self.model, self.batch, self.accumulate, self.in_batch = model, batch, accumulate, in_batch
        self.device, self.narrow = model.device, precision == "bf16-mixed"
        self.tokens = tokens or on_device(model.device, TOKENS)
        self.examples = domain.examples("training", model.config.length).to(model.device)
        self.optimiser = torch.optim.NAdam(
            model.parameters(),
            lr=1e-4,
            weight_decay=0.005,
            foreach=True,
            capturable=model.device.type == "cuda",
        )
        recorder = recorder_for(model.device)
        self.recorded = None
        if recorder is not None:
            self.recorded = RecordedSteps(
                recorder, model, self._call, self.optimiser, self.examples, in_batch=in_batch, step_items=self._items
            )

    def epoch(self, number: int, most: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """The number of examples and the sum of the losses of each step of an epoch, at most of `most` steps."""
        steps = self.examples.steps(
            self.batch,
            self.accumulate,
            number,
            None if self.in_batch else self.tokens,
            fixed_shapes=self.recorded is not None,
        )
        for place, parts in enumerate(islice(steps, most)):
            seed_of = partial(part_seed, 0, number, place)
            if self.recorded is not None:
                losses = self.recorded.step(parts, seed_of)
            else:
                torch.manual_seed(seed_of(0))
                items = None if self.in_batch else self._items()
                losses = accumulate(
                    self.model, self.examples, parts, in_batch=self.in_batch, items=items, call=self._call
                )
                self.optimiser.step()
                self.optimiser.zero_grad()
            yield sum(len(part.chosen) for part in parts), losses.sum()

    def _call(self, *arguments: object) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            loss: Tensor = self.model(*arguments)
        return loss

    def _items(self) -> StepItems:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            return self.model.step_items()
