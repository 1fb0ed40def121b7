"""A domain in memory: interactions, item features, and the examples cut from them.

Everything is joined by item id, never by position. Sequences stay flat (one tensor of items, one of times,
one of user offsets) and examples are pairs of positions in it, so that 12M prefixes cost 12M x 3 integers and
a batch is one gather. Reading Parquet happens here and nowhere else in the package; the model sees only
`Batch`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmm4rec.errors import ModelError
from mmm4rec.files import regular
from mmm4rec.tables import read_batches, read_table, stored_type

Split = Literal["training", "validation", "test", "everything"]


@dataclass(frozen=True)
class Encoder:
    """What made the vectors of a modality, as `encoder.json` beside them says."""

    model: str
    """Name, for messages."""
    sha256: str
    """Of what decides where a content's vector lies: weights and preprocessing."""
    ready: bool = False
    """Vectors made elsewhere: the sha256 is of the vectors themselves, and nobody knows the encoder."""

    def __str__(self) -> str:
        return f"{self.model} ({self.sha256[:12]})"


@dataclass(frozen=True)
class Features:
    """Frozen vectors of one modality."""

    vectors: Tensor
    """[N+1, D] float32; row 0 (padding) and rows of missing items are zero."""
    present: Tensor
    """[N+1] bool; false for padding and for items that lack this modality."""
    encoder: Encoder | None = None
    """None where nothing says what made the vectors."""

    @property
    def width(self) -> int:
        """D."""
        return self.vectors.shape[1]


@dataclass(frozen=True)
class DomainData:
    """Users, items, interactions and features of one domain (or of several, merged)."""

    name: str
    user_ids: list[str]
    """[U], in the order of user_index."""
    item_ids: list[str]
    """[N]; item n has index n+1, index 0 is padding."""
    offsets: Tensor
    """[U+1] int64: user u owns the flat positions offsets[u] .. offsets[u+1]."""
    items: Tensor
    """[M] int64 item indices, oldest first within a user."""
    times: Tensor
    """[M] int64 unix seconds."""
    training: Tensor
    """[U] int64: how many of a user's first interactions are for training."""
    validation: Tensor
    """[U] int64: how many after those are for validation; the rest is for testing."""
    text: Features
    image: Features

    @property
    def item_count(self) -> int:
        """N, padding not counted."""
        return len(self.item_ids)

    @property
    def user_count(self) -> int:
        """U."""
        return len(self.user_ids)

    def training_counts(self) -> Tensor:
        """[N+1] int64: training interactions of each item (validation and test items are not counted)."""
        return torch.bincount(self.trained()[1], minlength=self.item_count + 1)

    def trained(self) -> Tensor:
        """[2, n] int64: user 0..U-1 and item of every training interaction."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        users = torch.repeat_interleave(torch.arange(self.user_count), lengths)
        place = torch.arange(len(self.items)) - self.offsets[:-1][users]
        return torch.stack([users, self.items])[:, place < self.training[users]]

    def examples(self, split: Split, length: int) -> "Examples":
        """The examples of a split; each sees at most the last `length` interactions.

        training: every prefix of a user's training items, labelled with the training item that follows.
        validation: a user's training items, labelled with the first validation item.
        test: training and validation items, labelled with the first test item.
        everything: the whole history, without label, for every user (what to recommend next).
        Users with no label or no item before it are not in a split; `Examples.users` says who is.
        """
        first, stop = self.offsets[:-1], self.offsets[1:]
        users = torch.arange(self.user_count)
        if split == "training":
            # Labels are the second to the last of each user's training items.
            counts = (self.training - 1).clamp(min=0)
            users = torch.repeat_interleave(users, counts)
            rank = torch.arange(len(users)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            label = first[users] + 1 + rank
        else:
            label, end = {
                "validation": (first + self.training, first + self.training + self.validation),
                "test": (first + self.training + self.validation, stop),
                "everything": (stop, stop + 1),
            }[split]
            keep = (label > first) & (label < end)
            users, label = users[keep], label[keep]
        return Examples(
            items=self.items,
            times=self.times,
            users=users,
            first=first[users],
            label=label,
            length=length,
            labelled=split != "everything",
        )


TOKENS = {"cpu": 1 << 11, "cuda": 1 << 16}
"""Padded positions of a part, by device. On a CPU the largest activation then takes some 30 MiB at the published
sizes, which the allocator keeps, while the products are wide enough for full speed; on a GPU launches count."""


def tokens_on(device: torch.device) -> int:
    """`TOKENS` of a device; any accelerator is taken for a GPU."""
    return TOKENS.get(device.type, TOKENS["cuda"])


def _runs(lengths: Sequence[int], most: int, tokens: int | None) -> Iterator[tuple[slice, int]]:
    """Rows of these lengths in order, and the longest of each: at most `most`, of at most `tokens` padded positions
    (None: any number) unless it is a single row."""
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
    """Input of the model."""

    items: Tensor
    """[B, T] int64, oldest first, padded with 0 on the right; T is the longest sequence of the batch."""
    times: Tensor
    """[B, L] int64 unix seconds, 0 where there is none."""
    lengths: Tensor
    """[B] int64, at least 1."""
    labels: Tensor | None
    """[B] int64, the next item, where there is one."""

    def pieces(self) -> Iterator[tuple[slice, "Batch"]]:
        """Rows in order and their batch, each with no more padded positions than a part may have; few and with little
        padding where the rows come sorted by length."""
        tokens = tokens_on(self.items.device)
        if self.items.numel() <= tokens:
            yield slice(0, len(self.items)), self
            return
        for rows, longest in _runs(self.lengths.tolist(), len(self.items), tokens):
            labels = None if self.labels is None else self.labels[rows]
            yield rows, Batch(self.items[rows, :longest], self.times[rows], self.lengths[rows], labels)


class Part(NamedTuple):
    """What passes the model at once: a part of an optimiser step."""

    chosen: Tensor
    """[n] int64, examples."""
    longest: int
    share: float
    """Weight of the part's mean loss in the step."""


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
        """Gather the examples `index` [B], of which none is longer than `longest`.

        `label_time_is_input` reproduces the published data handling: where history and label together fit
        into L positions, the label's time stays in the time input.
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

        Within a step the examples are sorted by length and cut into batches of `batch_size`, or earlier where
        these have more than `tokens` padded positions (None: never, for a loss that looks across its batch).
        Every example of a step weighs the same: the shares of its parts add up to its number of batches, so that
        the sum of `share * mean loss` over the parts is the sum of the mean losses of random batches. Sorting
        whole epochs instead would fill a step with sequences of one length.
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


def load_domain(sequences: Path, text: Path, image: Path, name: str = "domain") -> DomainData:
    """Read a domain from Parquet.

    Args:
        sequences: folder with `sequences.parquet` and `items.parquet` (core/sequences).
        text: Parquet of text vectors, keyed by item_id; more items than the domain's are allowed. An
            `encoder.json` beside it says what made them.
        image: Parquet of image vectors, likewise. In one folder with the text vectors an `encoder.json` would be
            of either, so it is not read.
        name: prefix of ids when domains are merged, and name in messages.

    Raises:
        ModelError: a missing file or column, duplicate or missing ids, indices out of range, non-finite
            vectors.
    """
    catalogue = read_table(sequences / "items.parquet", "core/sequences/items").sort_by("item_index")
    table = read_table(sequences / "sequences.parquet", "core/sequences/sequences").sort_by("user_index")
    item_ids, user_ids = catalogue["item_id"].combine_chunks(), table["user_id"].combine_chunks()
    if not len(item_ids) or not len(user_ids):
        raise ModelError(f"{sequences}: no users or no items; lower k of the k-core, or give more interactions")
    _unique(item_ids, f"{sequences / 'items.parquet'}: item_id")
    _unique(user_ids, f"{sequences / 'sequences.parquet'}: user_id")
    index = catalogue["item_index"].to_numpy()
    if not np.array_equal(index, np.arange(1, len(index) + 1)):
        raise ModelError(
            f"{sequences / 'items.parquet'}: item_index is not 1..{len(index)}; build core/sequences again"
        )
    items, times = table["items"].combine_chunks(), table["times"].combine_chunks()
    counts = items.value_lengths().to_numpy()
    if not np.array_equal(counts, times.value_lengths().to_numpy()):
        raise ModelError(f"{sequences / 'sequences.parquet'}: lists of items and times differ in length")
    if counts.min() == 0:
        raise ModelError(f"{sequences / 'sequences.parquet'}: a user without interactions: leave such users out")
    training, validation = (table[name].to_numpy().astype(np.int64) for name in ("training", "validation"))
    if min(training.min(), validation.min()) < 0 or (training + validation > counts).any():
        raise ModelError(
            f"{sequences / 'sequences.parquet'}: training and validation do not add up to at most a sequence"
        )
    flat_items, flat_times = items.flatten(), times.flatten()
    if flat_items.null_count or flat_times.null_count:
        raise ModelError(f"{sequences / 'sequences.parquet'}: nulls within items or times; build core/sequences again")
    flat = torch.from_numpy(flat_items.to_numpy().astype(np.int64))
    if flat.min() < 1 or flat.max() > len(item_ids):
        raise ModelError(
            f"{sequences / 'sequences.parquet'}: items run from {flat.min()} to {flat.max()}, but item_index "
            f"is 1..{len(item_ids)}; build core/sequences again"
        )
    apart = text.parent != image.parent
    encoders = [_read_encoder(path.with_name("encoder.json")) if apart else None for path in (text, image)]
    return DomainData(
        name=name,
        user_ids=user_ids.to_pylist(),
        item_ids=item_ids.to_pylist(),
        offsets=torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64)),
        items=flat,
        times=torch.from_numpy(flat_times.to_numpy().astype(np.int64)),
        training=torch.from_numpy(training),
        validation=torch.from_numpy(validation),
        text=_load_features(text, item_ids, "text", encoders[0]),
        image=_load_features(image, item_ids, "image", encoders[1]),
    )


def merge_domains(domains: Sequence[DomainData], name: str = "merged") -> DomainData:
    """Several domains as one catalogue; user and item ids become `domain:id`.

    Raises:
        ModelError: no domain, two of one name, or features of several widths or encoders.
    """
    if not domains:
        raise ModelError("no domain to merge: give at least one source domain")
    if len({domain.name for domain in domains}) < len(domains):
        raise ModelError(f"domains of one name cannot be merged: {', '.join(d.name for d in domains)}")
    offsets, items, shift, taken = [torch.zeros(1, dtype=torch.int64)], [], 0, 0
    for domain in domains:
        offsets.append(domain.offsets[1:] + taken)
        items.append(domain.items + shift)
        shift += domain.item_count
        taken += len(domain.items)
    return DomainData(
        name=name,
        user_ids=[f"{domain.name}:{user}" for domain in domains for user in domain.user_ids],
        item_ids=[f"{domain.name}:{item}" for domain in domains for item in domain.item_ids],
        offsets=torch.cat(offsets),
        items=torch.cat(items),
        times=torch.cat([domain.times for domain in domains]),
        training=torch.cat([domain.training for domain in domains]),
        validation=torch.cat([domain.validation for domain in domains]),
        text=_merge_features([domain.text for domain in domains], domains, "text"),
        image=_merge_features([domain.image for domain in domains], domains, "image"),
    )


def _merge_features(features: Sequence[Features], domains: Sequence[DomainData], modality: str) -> Features:
    widths = {domain.name: feature.width for domain, feature in zip(domains, features, strict=True)}
    if len(set(widths.values())) > 1:
        raise ModelError(
            f"{modality} vectors of the domains differ in width: "
            + ", ".join(f"{name} {width}" for name, width in widths.items())
            + "; use one encoder for all"
        )
    encoders = {domain.name: feature.encoder for domain, feature in zip(domains, features, strict=True)}
    known = {name: encoder for name, encoder in encoders.items() if encoder and not encoder.ready}
    if len({encoder.sha256 for encoder in known.values()}) > 1:
        raise ModelError(
            f"{modality} vectors of the domains are of several encoders: "
            + ", ".join(f"{name} {encoder}" for name, encoder in known.items())
            + f"; set one {modality}_encoder for all"
        )
    first = features[0]
    return Features(
        vectors=torch.cat([first.vectors[:1], *(feature.vectors[1:] for feature in features)]),
        present=torch.cat([first.present[:1], *(feature.present[1:] for feature in features)]),
        # Ready vectors of several domains have no encoder in common that anybody knows of.
        encoder=next(iter(known.values()), first.encoder if len(features) == 1 else None),
    )


def _read_encoder(path: Path) -> Encoder | None:
    """What an `encoder.json` of the feature store says; None where there is none."""
    try:
        said = json.loads(regular(path).read_text(encoding="utf-8"))
        # Not the model's name, of which one model may have several, nor the precision, which is rounding.
        decisive = [said["weights_sha256"], said["preprocessing"]]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        return Encoder(str(said["model"]), digest, ready=said["preprocessing"] == "unknown")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: no encoder's identity ({error!r}); build the embeddings beside it again") from None


def _load_features(path: Path, item_ids: pa.Array, modality: str, encoder: Encoder | None) -> Features:
    """The vectors of `item_ids`, in that order, behind a zero row for padding.

    Memory holds them once: each batch that is read goes straight to its rows.
    """
    key = f"features/{modality}_embeddings/{modality}_embeddings"
    table = read_table(path, key, ["item_id", "present"])
    found = table["item_id"].combine_chunks()
    _unique(found, f"{path}: item_id")
    rows = pc.index_in(item_ids, value_set=found)
    if rows.null_count:
        missing = item_ids.filter(pc.is_null(rows))
        raise ModelError(
            f"{path}: {len(missing)} of {len(item_ids)} items have no row, such as {missing[0].as_py()!r}; "
            f"build the {modality} embeddings of this domain again"
        )
    order = rows.to_numpy()
    present = np.concatenate([[False], table["present"].to_numpy()[order]])
    place = np.zeros(len(found), np.int64)  # of each row that is read; 0: not wanted, or not present
    place[order] = np.arange(1, len(item_ids) + 1)
    place[order[~present[1:]]] = 0
    vectors = np.zeros((len(item_ids) + 1, _width(path, key)), np.float32)
    bad: list[int] = []
    start = 0
    for lists in read_batches(path, key, "vector"):
        read = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(lists), -1)
        target = place[start : start + len(lists)]
        start += len(lists)
        read, target = read[target > 0], target[target > 0]
        bad += target[~np.isfinite(read).all(axis=1)].tolist()
        vectors[target] = read
    if bad:
        name = item_ids[min(bad) - 1].as_py()
        raise ModelError(
            f"{path}: {len(bad)} {modality} vectors hold NaN or infinity, such as that of {name!r}; "
            "encode them again, or mark them present=false"
        )
    return Features(vectors=torch.from_numpy(vectors), present=torch.from_numpy(present), encoder=encoder)


def _width(path: Path, key: str) -> int:
    """The one width of a table's vectors."""
    kind = stored_type(path, key, "vector")
    widths = {int(kind.list_size)} if pa.types.is_fixed_size_list(kind) else set()
    if not widths:
        for lists in read_batches(path, key, "vector"):
            widths.update(pc.list_value_length(lists).unique().to_pylist())
    if len(widths) != 1 or not min(widths):
        raise ModelError(f"{path}: vectors of widths {sorted(widths)}; all must have one width above 0")
    return widths.pop()


def _unique(ids: pa.Array, where: str) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise ModelError(
            f"{where}: {len(repeated)} ids occur more than once, such as {repeated[0]['values'].as_py()!r}"
        )
