"""The examples of a domain: pairs of positions in its flat sequences, and the batches gathered from them.

An example is three integers, however long its sequence is: 12 million examples are 36 million integers. Items and times
are gathered only when a batch is made. The model sees only `Batch`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Split = Literal["training", "validation", "test", "everything"]

TOKENS = {"cpu": 1 << 11, "cuda": 1 << 16}
"""The padded positions of a part, by device. On a CPU, the largest activation then takes about 30 MiB at the published
sizes. The allocator reuses blocks of that size, and the matrix products are wide enough for full speed. On a GPU, the
time of kernel launches dominates."""


def tokens_on(device: torch.device) -> int:
    """The `TOKENS` of a device. Any accelerator counts as a GPU."""
    return TOKENS.get(device.type, TOKENS["cuda"])


def _runs(lengths: Sequence[int], most: int, tokens: int | None) -> Iterator[tuple[slice, int]]:
    """Runs of rows of these lengths, in order, and the longest length of each run. A run has at most `most` rows and at
    most `tokens` padded positions (None: any number), unless it is a single row."""
    first = 0
    while first < len(lengths):
        stop, longest = first + 1, lengths[first]
        while stop < min(first + most, len(lengths)):
            wider = max(longest, lengths[stop])
            if tokens is not None and (stop + 1 - first) * wider > tokens:
                break
            stop, longest = stop + 1, wider
        yield slice(first, stop), longest
        first = stop


class Batch(NamedTuple):
    """The input of the model."""

    items: Tensor
    """[B, T] int64, oldest first, padded with 0 on the right; T is the longest sequence of the batch."""
    times: Tensor
    """[B, L] int64 unix seconds, 0 where there is none."""
    lengths: Tensor
    """[B] int64, at least 1."""
    labels: Tensor | None
    """[B] int64, the next item, if there is one."""

    def pieces(self) -> Iterator[tuple[slice, "Batch"]]:
        """Rows in order and their batches, each within the padded positions that a part may have. Rows sorted by length
        give few batches with little padding."""
        tokens = tokens_on(self.items.device)
        if self.items.numel() <= tokens:
            yield slice(0, len(self.items)), self
            return
        for rows, longest in _runs(self.lengths.tolist(), len(self.items), tokens):
            labels = None if self.labels is None else self.labels[rows]
            yield rows, Batch(self.items[rows, :longest], self.times[rows], self.lengths[rows], labels)


class Part(NamedTuple):
    """The examples that pass the model at once: a part of an optimiser step."""

    chosen: Tensor
    """[n] int64, the indices of the examples."""
    longest: int
    share: float
    """The weight of the part's mean loss in the step."""


@dataclass(frozen=True)
class Examples:
    """Examples as positions in the flat sequences; `batch` gathers them."""

    items: Tensor
    times: Tensor
    users: Tensor
    """[E] int64, index 0..U-1 of each example's user."""
    first: Tensor
    """[E] int64, flat position of the user's first interaction."""
    label: Tensor
    """[E] int64, flat position of the label; the input ends just before it."""
    length: int
    labelled: bool

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> Tensor:
        """[E] int64, number of input positions, 1..L."""
        return (self.label - self.first).clamp(max=self.length)

    def to(self, device: torch.device) -> Self:
        """The same examples on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("items", "times", "users", "first", "label")}
        return type(self)(**moved, length=self.length, labelled=self.labelled)

    def batch(self, index: Tensor, longest: int, label_time_is_input: bool = False) -> Batch:
        """Gather the examples `index` [B]. None of them is longer than `longest`.

        `label_time_is_input` reproduces the published data handling: if history and label together fit into L
        positions, the label's time stays in the time input.
        """
        label, lengths = self.label[index], self.lengths[index]
        start = label - lengths
        step = torch.arange(self.length, device=index.device)
        timed = lengths
        if label_time_is_input and self.labelled:
            timed = torch.where(label - self.first[index] < self.length, lengths + 1, lengths)
        # Positions beyond the flat end are masked afterwards.
        position = (start[:, None] + step).clamp(max=len(self.items) - 1)
        items = torch.where(step[:longest] < lengths[:, None], self.items[position[:, :longest]], 0)
        times = torch.where(step < timed[:, None], self.times[position], 0)
        return Batch(items, times, lengths, self.items[label] if self.labelled else None)

    def steps(self, batch_size: int, accumulate: int, seed: int, tokens: int | None = None) -> Iterator[list["Part"]]:
        """The examples in random order, as optimiser steps of `accumulate` batches, each step cut into parts.

        Within a step, the examples are sorted by length and cut into batches of `batch_size`, or earlier if a batch
        would have more than `tokens` padded positions (None: never, for a loss that looks across its batch). Every
        example of a step has the same weight: the shares of its parts add up to its number of batches, so the sum of
        `share * mean loss` over the parts equals the sum of the mean losses of random batches. Sorting a whole epoch
        would instead fill a step with sequences of one length.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        lengths = self.lengths.cpu()
        for step in torch.split(order, batch_size * accumulate):
            found, place = torch.sort(lengths[step], stable=True)
            step = step[place]
            batches = -(-len(step) // batch_size)
            parts = []
            for rows, longest in _runs(found.tolist(), batch_size, tokens):
                chosen = step[rows]
                share = len(chosen) * batches / len(step)
                parts.append(Part(chosen.to(self.label.device), longest, share))
            yield parts
