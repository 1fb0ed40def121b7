"""A domain in memory: users, items, interactions and the frozen vectors of the items.

Everything is joined by item id, never by position. Sequences are flat: one tensor of items, one of times, one of user
offsets. `reading` reads a domain, and `examples` makes the examples that a model sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmm4rec.data.examples import Examples, Split
from mmm4rec.errors import ModelError


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder that made the vectors of a modality, from the `encoder.json` beside them."""

    model: str
    """Name, for messages."""
    sha256: str
    """The sha256 of everything that decides the vectors: weights and preprocessing."""
    ready: bool = False
    """The vectors were made elsewhere: the sha256 is that of the vectors themselves, and the encoder is not known."""

    def __str__(self) -> str:
        return f"{self.model} ({self.sha256[:12]})"


@dataclass(frozen=True)
class Features:
    """Frozen vectors of one modality."""

    vectors: Tensor
    """[N+1, D] float32; row 0 (padding) and rows of missing items are zero."""
    present: Tensor
    """[N+1] bool; false for padding and for items that lack this modality."""
    encoder: EncoderRecord | None = None
    """None if the encoder is not recorded."""

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
    """[U] int64: the number of a user's first interactions that are for training."""
    validation: Tensor
    """[U] int64: the number of interactions after those that are for validation; the rest is for testing."""
    text: Features
    image: Features

    @property
    def item_count(self) -> int:
        """N, without padding."""
        return len(self.item_ids)

    @property
    def user_count(self) -> int:
        """U."""
        return len(self.user_ids)

    def training_counts(self) -> Tensor:
        """[N+1] int64: the number of training interactions of each item (without validation and test items)."""
        return torch.bincount(self.trained()[1], minlength=self.item_count + 1)

    def trained(self) -> Tensor:
        """[2, n] int64: user 0..U-1 and item of every training interaction."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        users = torch.repeat_interleave(torch.arange(self.user_count), lengths)
        place = torch.arange(len(self.items)) - self.offsets[:-1][users]
        return torch.stack([users, self.items])[:, place < self.training[users]]

    def examples(self, split: Split, length: int) -> Examples:
        """The examples of a split; each sees at most the last `length` interactions.

        training: every prefix of a user's training items, labelled with the training item that follows.
        validation: a user's training items, labelled with the first validation item.
        test: training and validation items, labelled with the first test item.
        everything: the whole history, without label, for every user (what to recommend next).
        Users without a label, or without an item before it, are not in a split; `Examples.users` lists those in it.
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


def merge_domains(domains: Sequence[DomainData], name: str = "merged") -> DomainData:
    """Merge several domains into one. User and item ids become `domain:id`.

    Raises:
        ModelError: there is no domain, two have the same name, or features differ in width or encoder.
    """
    if not domains:
        raise ModelError("there is no domain to merge: give at least one source domain")
    if len({domain.name for domain in domains}) < len(domains):
        raise ModelError(f"domains with the same name cannot be merged: {', '.join(d.name for d in domains)}")
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
        # Merged ready vectors have no known common encoder.
        encoder=next(iter(known.values()), first.encoder if len(features) == 1 else None),
    )
