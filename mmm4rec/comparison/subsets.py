"""A reduced domain: with only a share of its users, or without one modality of its items."""

import hashlib
import math
from dataclasses import replace
from typing import Literal

import torch

from mmm4rec.data.domain import DomainData
from mmm4rec.errors import ModelError

__all__ = ["Modality", "share_of_users", "without"]

Modality = Literal["text", "image"]


def share_of_users(domain: DomainData, percent: float) -> DomainData:
    """The domain with this share of its users (at least one user) and with all its items.

    Users are selected in the order of the hashes of their ids, so a smaller share is part of a larger one.

    Raises:
        ModelError: none of the users has examples for training or for validation.
    """
    if percent == 100:
        return domain
    order = sorted(range(domain.user_count), key=lambda user: hashlib.sha256(domain.user_ids[user].encode()).digest())
    chosen = torch.tensor(sorted(order[: math.ceil(domain.user_count * percent / 100)]))
    trained, validated = domain.training[chosen], domain.validation[chosen]
    if not (trained > 1).any() or not ((trained > 0) & (validated > 0)).any():
        raise ModelError(
            f"{domain.name}: {percent:g}% of its {domain.user_count:,} users is {len(chosen):,}, too few for training "
            "and validation: compare larger shares of users"
        )
    lengths = (domain.offsets[1:] - domain.offsets[:-1])[chosen]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    owner = torch.repeat_interleave(torch.arange(len(chosen)), lengths)
    flat = domain.offsets[chosen][owner] + torch.arange(len(owner)) - offsets[owner]
    return replace(
        domain,
        user_ids=[domain.user_ids[user] for user in chosen.tolist()],
        offsets=offsets,
        items=domain.items[flat],
        times=domain.times[flat],
        training=trained,
        validation=validated,
    )


def without(domain: DomainData, modality: Modality | None) -> DomainData:
    """The domain as if no item had this modality."""
    if modality is None:
        return domain
    there = domain.text if modality == "text" else domain.image
    gone = replace(there, vectors=torch.zeros_like(there.vectors), present=torch.zeros_like(there.present))
    return replace(domain, text=gone) if modality == "text" else replace(domain, image=gone)
