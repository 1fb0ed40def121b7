"""The interface of a model for the trainer, the evaluation and checkpoints, and what all models share: loss and scores.

A model computes vectors of items and of users; a score is their product. Shapes: B batch, T positions computed (the
longest sequence of the batch), N items, n of these items, H hidden, M tables of item vectors (MMM4Rec has one for each
modality, a baseline has one).

There is no model in this module: MMM4Rec is in `mmm4rec.model.mmm4rec`, the models to compare with are in
`mmm4rec.baselines`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmm4rec.config import RecommenderConfig, SSDForm
from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Batch
from mmm4rec.errors import ModelError
from mmm4rec.model.compat import Rules, rules
from mmm4rec.model.losses import full_cross_entropy, in_batch_cross_entropy
from mmm4rec.model.ssd import widened


class Recommender(nn.Module, ABC):
    """A model for the items of one domain."""

    config_type: ClassVar[type[RecommenderConfig]]
    has_state_space: ClassVar[bool] = False
    """Whether the setting `ssd_form` has an effect."""

    config: RecommenderConfig
    rules: Rules
    item_count: int
    """N, padding not counted."""

    def __init__(self, config: RecommenderConfig, domain: DomainData, ssd_form: SSDForm = "auto") -> None:
        super().__init__()
        self.config = config
        self.rules = rules("default")
        self.item_count = len(domain.text.vectors) - 1

    @abstractmethod
    def item_vectors(self, index: Tensor | None = None) -> Tensor:
        """E [M,n,H] of the items `index` [n] (None: all, padding included)."""

    @abstractmethod
    def score_vectors(self, vectors: Tensor, index: Tensor | None = None) -> Tensor:
        """The vectors [n,H] whose product with a user vector is the score of the items `index`; from E [M,n,H]."""

    @abstractmethod
    def user_vectors(self, batch: Batch, vectors: Tensor, rows: Tensor) -> Tensor:
        """u [B,H] after the last interaction; rows [B,T] index the item vectors E [M,n,H]."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def step_items(self) -> "StepItems":
        """The item vectors for all batches of one optimiser step. The weights do not change within a step."""
        return StepItems(self)

    def forward(self, batch: Batch, in_batch: bool = False, items: "StepItems | None" = None) -> Tensor:
        """The training loss: mean cross-entropy over all items, or over the labels of the batch.

        With `items`, the loss over all items uses these item vectors. They are computed once per step, and
        `items.backward()` sends their gradient to the parameters that they depend on.
        """
        if batch.labels is None:
            raise ModelError("a batch without labels has no loss: use examples of training, validation or test")
        if not in_batch:
            if items is None:
                vectors = self.item_vectors()
                table = self.score_vectors(vectors)
            else:
                vectors, table = items.vectors, items.table
            users = self.user_vectors(batch, vectors, batch.items)
            return full_cross_entropy(users, table, batch.labels, self.rules)
        used, rows = _distinct(torch.cat([batch.items.flatten(), batch.labels]))
        vectors = self.item_vectors(used)
        places, labels = rows[: batch.items.numel()].view_as(batch.items), rows[batch.items.numel() :]
        # A sequence does not depend on the others of its batch, so users are encoded piece by piece. Only the scores
        # need all of them at once.
        users = torch.cat([self.user_vectors(b, vectors, places[at, : b.items.shape[1]]) for at, b in batch.pieces()])
        # F.embedding instead of indexing: labels repeat, and only embedding adds their gradients in a fixed order.
        of_labels = torch.stack([F.embedding(labels, table) for table in vectors])
        candidates = self.score_vectors(of_labels, batch.labels)
        return in_batch_cross_entropy(users @ candidates.T, batch.labels, self.rules)

    def scores(self, users: Tensor, table: Tensor, first_item: int = 0) -> Tensor:
        """[B,n] scores of users [B,H] over the items from `first_item` on; table [n,H] of `score_vectors`.

        Padding (item 0) has score -inf, except in published mode, where it is a candidate.
        """
        scores = users @ table.T
        if first_item > 0 or self.rules.padding_is_candidate:
            return scores
        padding = torch.arange(scores.shape[1], device=scores.device) == 0
        return scores.masked_fill(padding, -torch.inf)


def _distinct(items: Tensor) -> tuple[Tensor, Tensor]:
    """The items [n] whose vectors are computed for a batch, and the row of each of `items` among them.

    On a CPU, every item once. On a GPU, all as they come: few items of a batch repeat in a large catalogue, and the
    number of different ones would have to be read from the device.
    """
    if items.device.type == "cpu":
        used, rows = torch.unique(items, return_inverse=True)
        return used, rows
    return items, torch.arange(len(items), device=items.device)


class StepItems:
    """Item vectors E [M,N+1,H] and their score table [N+1,H], computed once for all batches of a step.

    They accumulate the gradients of the batches. `backward` then sends the sum to the parameters, which is exact
    because gradients are linear in it.
    """

    def __init__(self, model: Recommender) -> None:
        vectors = widened(model.item_vectors())  # in float32, because the gradients of many parts are summed
        self._computed = [vectors, model.score_vectors(vectors)]
        self.vectors, self.table = (tensor.detach().requires_grad_() for tensor in self._computed)

    def start_gradients(self) -> None:
        """Set the gradients to zero in their own memory, for work that is recorded and repeated."""
        for tensor in (self.vectors, self.table):
            tensor.grad = torch.zeros_like(tensor)

    def backward(self, again: bool = False) -> None:
        """Call this once, after the backward pass of the step's last batch and before the optimiser step. `again` keeps
        what it needs, for work that is recorded and repeated."""
        pairs = zip(self._computed, (self.vectors.grad, self.table.grad), strict=True)
        tensors, gradients = zip(*((t, g) for t, g in pairs if g is not None), strict=True)
        torch.autograd.backward(tensors, gradients, retain_graph=again)
