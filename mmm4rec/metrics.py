"""The metrics of ranked lists, each declared once. Evaluation, tables, views, checks, reports and charts use them.

To add a metric, add it to METRICS, then run `make docs`. There are two kinds:

**Metrics of users.** The label of a user is the item that the model is asked for. A model ranks all items; the rank of
the label gives the user a gain; the metric is the mean gain of all users. So it has a standard error, and classes of
users can be compared by it.
**Metrics of lists.** They describe the lists of all users together; coverage is an example. They are not means over
users: they have no standard error, they depend on the number of users, and they have no breakdown by class of users.

`mmm4rec.evaluation` computes ranks; this module computes metrics from them. Nothing here imports torch: the library
that made the ranks also computes the gain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

CUTOFFS: Final = (10, 20, 50)
"""The k of the metrics."""
SHOWN_AT: Final = 10
"""The k that pages, the view `results` and summaries show. `reports.metrics` has every k."""
CRITERION: Final = "NDCG@10"
"""The default metric that decides which weights are kept and which model is the best."""


@dataclass(frozen=True)
class Metric:
    """The fields that both kinds share. A value lies within [0, 1]."""

    label: str
    """The name for people, such as NDCG: letters, digits and _. Column names start with it in lower case."""
    meaning: str
    """A half sentence for the comments of tables and columns."""
    cutoffs: tuple[int, ...] = field(default=CUTOFFS, kw_only=True)
    larger_is_better: bool = field(default=True, kw_only=True)
    grows_with_k: bool = field(default=True, kw_only=True)
    """Whether the value can only stay equal or grow with k. An asset check verifies it."""

    def __post_init__(self) -> None:
        if not (self.label.isascii() and self.label.isidentifier()):
            raise ValueError(
                f"the metric {self.label!r} needs another label: columns and settings are named by it, so it has only "
                "ASCII letters, digits and _, and begins with no digit"
            )

    @property
    def name(self) -> str:
        """`ndcg` for NDCG."""
        return self.label.lower()

    def title(self, k: int) -> str:
        """`NDCG@10`."""
        return f"{self.label}@{k}"

    def column(self, k: int) -> str:
        """`ndcg_10`."""
        return column(self.title(k))


@dataclass(frozen=True)
class UserMetric(Metric):
    """The mean over users of the gain that the rank of their label gives."""

    gain: Callable[[Any, int], Any]
    """(ranks, k) -> gains, elementwise; ranks are an array or a tensor of floats, 1 is the best, halves come from ties.
    Booleans are hits: their mean is a share."""


@dataclass(frozen=True)
class ListMetric(Metric):
    """A metric of the lists of all users together."""

    value: Callable[[Any], float]
    """(users) -> value; users [N] is an integer tensor: for each item, the number of users with it in their top k."""


def _log2(numbers: Any) -> Any:
    if hasattr(numbers, "log2"):
        return numbers.log2()
    import numpy as np  # imported here, because every command imports this module (the settings name metrics)

    return np.log2(numbers)


METRICS: Final[tuple[Metric, ...]] = (
    UserMetric("HR", "share of users whose label ranks at k or better", lambda ranks, k: ranks <= k),
    UserMetric(
        "NDCG",
        "mean over users of 1 / log2(1 + rank of the label), 0 beyond k",
        lambda ranks, k: (ranks <= k) / _log2(1 + ranks),
    ),
    UserMetric("MRR", "mean over users of 1 / rank of the label, 0 beyond k", lambda ranks, k: (ranks <= k) / ranks),
    ListMetric(
        "coverage",
        "share of the catalogue's items that rank at k or better for at least one user",
        lambda users: int((users > 0).sum()) / len(users),
    ),
)
"""All metrics, in the order in which they are shown."""


def figures() -> Iterator[tuple[Metric, int]]:
    """Every metric, at each of its cut-offs."""
    return ((metric, k) for metric in METRICS for k in metric.cutoffs)


def of_users() -> Iterator[UserMetric]:
    """The metrics that are means over users."""
    return (metric for metric in METRICS if isinstance(metric, UserMetric))


def of_lists() -> Iterator[ListMetric]:
    """The metrics of all users' lists together."""
    return (metric for metric in METRICS if isinstance(metric, ListMetric))


def shown() -> list[Metric]:
    """The metrics that pages and views show at SHOWN_AT."""
    return [metric for metric in METRICS if SHOWN_AT in metric.cutoffs]


def criteria() -> list[str]:
    """The titles of the metrics that can decide which weights are kept: means over users where higher is better."""
    return [metric.title(k) for metric in of_users() if metric.larger_is_better for k in metric.cutoffs]


def column(title: str) -> str:
    """The column of a title: `ndcg_10` for NDCG@10."""
    return title.lower().replace("@", "_")
