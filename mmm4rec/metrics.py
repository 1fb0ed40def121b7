"""The metrics of ranked lists, each declared once. Evaluation, tables, views, checks, reports and charts follow.

To add one, add it to METRICS, then run `make docs`. There are two kinds:

**Of users.** The label of each user has a rank, the rank gains something, and the metric is the mean over users. So it
has a standard error, and classes of users can be compared by it.
**Of lists.** It says something of the lists of all users together, as coverage does. It is no mean over users: it has
no standard error, it depends on how many users there are, and it is not broken down by classes of users.

How ranks are counted says `mmm4rec.evaluation`; here is what is made of them. Nothing here imports torch: a gain is
computed by whatever library its ranks come from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

CUTOFFS: Final = (10, 20, 50)
"""The k of the metrics."""
SHOWN_AT: Final = 10
"""The k of pages, of the view `results` and of summaries; `reports.metrics` has all of them."""
CRITERION: Final = "NDCG@10"
"""What decides where nobody says otherwise: which weights are kept, and which model is the best."""


@dataclass(frozen=True)
class Metric:
    """What both kinds have. A value lies within [0, 1]."""

    label: str
    """As people write it, such as NDCG; in lower case it begins names of columns."""
    meaning: str
    """In half a sentence, for comments on tables and columns."""
    cutoffs: tuple[int, ...] = field(default=CUTOFFS, kw_only=True)
    larger_is_better: bool = field(default=True, kw_only=True)
    grows_with_k: bool = field(default=True, kw_only=True)
    """Whether it cannot be smaller at a larger k; a check holds it to that."""

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
    """A mean over users of what the rank of their label gains."""

    gain: Callable[[Any, int], Any]
    """(ranks, k) -> gains, elementwise; ranks are an array or a tensor of floats, 1 is the best, halves come from ties.
    Booleans are hits: their mean is a share."""


@dataclass(frozen=True)
class ListMetric(Metric):
    """A property of the lists of all users together."""

    value: Callable[[Any], float]
    """(users) -> value; users [N] are a tensor of integers: in how many users' top k each item of the catalogue is."""


def _log2(numbers: Any) -> Any:
    if hasattr(numbers, "log2"):
        return numbers.log2()
    import numpy as np  # not with the module: every command imports the settings, which name metrics

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
"""All of them, in the order in which they are shown."""


def figures() -> Iterator[tuple[Metric, int]]:
    """Every metric at each of its cut-offs."""
    return ((metric, k) for metric in METRICS for k in metric.cutoffs)


def of_users() -> Iterator[UserMetric]:
    """The metrics that are means over users."""
    return (metric for metric in METRICS if isinstance(metric, UserMetric))


def of_lists() -> Iterator[ListMetric]:
    """The metrics of all users' lists together."""
    return (metric for metric in METRICS if isinstance(metric, ListMetric))


def shown() -> list[Metric]:
    """The metrics that pages and views show, at SHOWN_AT."""
    return [metric for metric in METRICS if SHOWN_AT in metric.cutoffs]


def criteria() -> list[str]:
    """The titles of what can decide which weights are kept: means over users of which more is better."""
    return [metric.title(k) for metric in of_users() if metric.larger_is_better for k in metric.cutoffs]


def column(title: str) -> str:
    """The column of a title: `ndcg_10` for NDCG@10."""
    return title.lower().replace("@", "_")
