"""The examples of a domain: pairs of positions in its flat sequences, and the batches gathered from them.

An example is three integers, however long its sequence is: 12 million examples are 36 million integers. Items and times
are gathered only when a batch is made. The model sees only `Batch`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from mmm4rec.devices import on_device

Split = Literal["training", "validation", "test", "everything"]

TOKENS = {"cpu": 1 << 11, "cuda": 1 << 15}
"""The padded positions of a part, by device. On a CPU, the largest activation then takes about 30 MiB at the published
sizes. The allocator reuses blocks of that size, and the matrix products are wide enough for full speed. On a GPU, the
activations of a part take about 2 GiB."""
FIXED_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""The lengths to which parts of fixed shapes are padded; above the last, powers of two."""
SMALLEST_SHARE, SMALLEST_ROWS = 8, 256
"""Parts of fixed shapes have at least 1/8 of the rows of a step and at least so many rows, unless `TOKENS` forbids it.
Smaller parts take as long as their kernels take to start."""


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


def _fixed(lengths: Sequence[int], length: int, tokens: int) -> Iterator[tuple[slice, int]]:
    """Parts of few different shapes for rows sorted by length: half of the rows, half of the rest, and so on.

    The number of rows of a part depends only on the number of rows of the step, and its length is one of
    `FIXED_LENGTHS`. Few sequences are long, so halving wastes little on padding. A part with more than `tokens` padded
    positions is halved again.
    """
    cuts, rest = [0], len(lengths)
    while rest > 2 * max(SMALLEST_ROWS, len(lengths) // SMALLEST_SHARE):
        cuts.append(cuts[-1] + rest - rest // 2)
        rest //= 2
    waiting = [slice(*bounds) for bounds in zip(cuts, [*cuts[1:], len(lengths)], strict=True)][::-1]
    while waiting:
        rows = waiting.pop()
        longest, count = fixed_length(lengths[rows.stop - 1], length), rows.stop - rows.start
        if count * longest > tokens and count > 1:
            middle = rows.stop - count // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
        else:
            yield rows, longest


def fixed_length(longest: int, length: int) -> int:
    """The next of `FIXED_LENGTHS` from `longest` on, but at most `length`."""
    found = next((fixed for fixed in FIXED_LENGTHS if fixed >= longest), 1 << (longest - 1).bit_length())
    return min(found, length)


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
        tokens = on_device(self.items.device, TOKENS)
        if self.items.numel() <= tokens:
            yield slice(0, len(self.items)), self
            return
        # Only a CPU reads the lengths. Elsewhere, reading would wait for the device.
        on_cpu, width = self.items.device.type == "cpu", self.items.shape[1]
        lengths = self.lengths.tolist() if on_cpu else [width] * len(self.items)
        for rows, longest in _runs(lengths, len(self.items), tokens):
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
        label, first = self.label[index], self.first[index]
        lengths = (label - first).clamp(max=self.length)  # not `self.lengths`, which is that of all examples
        start = label - lengths
        step = torch.arange(self.length, device=index.device)
        timed = lengths
        if label_time_is_input and self.labelled:
            timed = torch.where(label - first < self.length, lengths + 1, lengths)
        # Positions beyond the flat end are masked afterwards.
        position = (start[:, None] + step).clamp(max=len(self.items) - 1)
        items = torch.where(step[:longest] < lengths[:, None], self.items[position[:, :longest]], 0)
        times = torch.where(step < timed[:, None], self.times[position], 0)
        return Batch(items, times, lengths, self.items[label] if self.labelled else None)

    def steps(
        self, batch_size: int, accumulate: int, seed: int, tokens: int | None = None, fixed_shapes: bool = False
    ) -> Iterator[list["Part"]]:
        """The examples in random order, as optimiser steps of `accumulate` batches, each step cut into parts.

        Within a step, the examples are sorted by length and cut into batches of `batch_size`, or earlier if a batch
        would have more than `tokens` padded positions (None: never, for a loss that looks across its batch). Every
        example of a step has the same weight: the shares of its parts add up to its number of batches, so the sum of
        `share * mean loss` over the parts equals the sum of the mean losses of random batches. Sorting a whole epoch
        would instead fill a step with sequences of one length.

        `fixed_shapes` cuts the step into parts of few different shapes instead, as a device needs that records its
        work (`mmm4rec.training.recording`). The examples of a step are the same.
        """
        size = batch_size * accumulate
        generator = torch.Generator().manual_seed(seed)
        # Drawn on the CPU, so that the order is the same on every device; the rest is done where the examples are.
        order = torch.randperm(len(self), generator=generator).to(self.label.device)
        step = torch.arange(len(self), device=order.device) // size
        place = torch.sort(step * (self.length + 1) + self.lengths[order], stable=True).indices
        order = order[place]
        found = self.lengths[order].cpu()
        for start in range(0, len(self), size):
            lengths = found[start : start + size].tolist()
            batches = -(-len(lengths) // batch_size)
            if fixed_shapes and tokens is not None:
                cut = _fixed(lengths, self.length, tokens)
            else:
                cut = _runs(lengths, batch_size, tokens)
            parts = []
            for rows, longest in cut:
                chosen = order[start + rows.start : start + rows.stop]
                share = len(chosen) * batches / len(lengths)
                parts.append(Part(chosen, fixed_length(longest, self.length) if fixed_shapes else longest, share))
            yield parts
