"""The results of an evaluation: the ranks of the labels of a split, and their metrics with standard errors.

`ranking` ranks the labels, and `reports` writes the results.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmm4rec.errors import ModelError
from mmm4rec.metrics import column, figures, of_lists, of_users

LENGTH_BINS = (1, 5, 10, 20, 50)
"""Lower bounds of the classes of users, by the number of interactions before the label."""
LABEL_COUNT_BINS = (0, 1, 5, 20, 100)
"""Lower bounds of the classes of labels, by the number of their training interactions: never seen, cold, ... warm."""


@dataclass(frozen=True)
class Metrics:
    """The metrics at their cut-offs, over `users` users. Metrics of lists exist only for all users of a split."""

    users: int
    values: dict[str, float]
    """{hr_10: ..., ndcg_10: ...}, by the column names of `history`."""
    errors: dict[str, float]
    """Standard errors of the means over users, by the same names. For a share (HR) it is the binomial one,
    sqrt(p (1-p) / users), otherwise that of the sample mean. Metrics of lists have none."""

    def value(self, title: str) -> float:
        """The value of a metric such as `NDCG@10`."""
        return self.values[column(title)]

    def error(self, title: str) -> float | None:
        """The standard error of a metric such as `NDCG@10`; None if the metric is not a mean over users."""
        return self.errors.get(column(title))

    def rows(self) -> Iterator[dict[str, object]]:
        """One row per metric and cut-off, in the columns of `reports/metrics/metrics`."""
        for metric, k in figures():
            if (name := metric.column(k)) in self.values:
                yield {
                    "metric": metric.label,
                    "k": k,
                    "value": self.values[name],
                    "standard_error": self.errors.get(name),
                    "users": self.users,
                }


@dataclass(frozen=True)
class Ranking:
    """The ranks of the labels of a split, the values for their breakdown [E], and all users' lists, on the CPU."""

    ranks: Tensor
    """float64; equal scores can give halves."""
    history_lengths: Tensor
    """int64, the number of the user's interactions before the label, also beyond the L that the model sees."""
    label_counts: Tensor
    """int64, the number of training interactions of the label, from all users."""
    top_k_counts: Mapping[int, Tensor]
    """[N] int64 by k: how many users have each item in their top k."""

    def metrics(self) -> Metrics:
        """The metrics of all users and of their lists."""
        found = metrics_of_ranks(self.ranks)
        return replace(found, values=found.values | self.of_lists())

    def of_lists(self) -> dict[str, float]:
        """The metrics of lists: {coverage_10: ...}."""
        return {metric.column(k): metric.value(self.top_k_counts[k]) for metric in of_lists() for k in metric.cutoffs}

    def breakdown(self) -> Iterator[tuple[str, int, int | None, Metrics]]:
        """(property, lowest value, highest value (None: open), metrics of users) of every class that has a user."""
        for name, values, lows in (
            ("history_length", self.history_lengths, LENGTH_BINS),
            ("label_count", self.label_counts, LABEL_COUNT_BINS),
        ):
            members = torch.bucketize(values, torch.tensor(lows), right=True) - 1
            for c, low in enumerate(lows):
                if (chosen := members == c).any():
                    high = None if c + 1 == len(lows) else lows[c + 1] - 1
                    yield name, low, high, metrics_of_ranks(self.ranks[chosen])


def metrics_of_ranks(ranks: Tensor) -> Metrics:
    """The metrics of users, from ranks [U] (halves allowed, 1 is the best).

    Raises:
        ModelError: there is no rank.
    """
    users = len(ranks)
    if not users:
        raise ModelError(
            "there is no user to evaluate: no sequence reaches this split; a user needs 3 interactions for validation "
            "and 2 for testing: give more interactions, or lower k of the k-core"
        )
    ranks = ranks.double()
    values, errors = {}, {}
    for metric in of_users():
        for k in metric.cutoffs:
            gains, name = metric.gain(ranks, k), metric.column(k)
            mean = values[name] = float(gains.double().mean())
            if gains.dtype == torch.bool:
                errors[name] = (mean * (1 - mean) / users) ** 0.5
            else:
                errors[name] = float(gains.std()) / users**0.5 if users > 1 else 0.0
    return Metrics(users, values, errors)
