"""Full-ranking evaluation and recommendation.

**Candidates.** All items of the domain, also those the user has seen; padding only in published mode.
**Rank.** 1 + (candidates scored higher than the label) + (others scored equal) / 2, so that a model which
scores everything alike gets the middle, not the top. A NaN score is an error. What metrics are made of ranks says
`mmm4rec.metrics`, how the lists of all users are counted in the same pass `mmm4rec.evaluation.listed`.

Ranks come from counting, not sorting, in blocks of users and of items. Users are encoded, ranked and forgotten
chunk by chunk: beside the item table [N+1,H], a number a user and some an item, memory grows with neither.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmm4rec.data import DomainData, Examples, Split
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.listed import Listed
from mmm4rec.metrics import column, figures, of_lists, of_users
from mmm4rec.model.recommender import Recommender
from mmm4rec.tables import TABLES, write_table

USER_BATCH, USER_BATCH_CPU = 1024, 128
"""Users that the model encodes at a time: on a CPU fewer, whose activations its cache holds, are twice as fast."""
ENCODED_TOGETHER = 4096
"""Users whose items pass the adapters together, each item once."""
RANKED_TOGETHER = 16_384
"""Users ordered by label before they are ranked: those of a block then share few blocks of labels."""
USER_BLOCK = 512
ITEM_BLOCK, ITEM_BLOCK_CPU = 65_536, 2048
"""Scores of USER_BLOCK users and this many items are held at a time: on a CPU, what its cache holds."""
TABLE_BLOCK = 16_384
"""Items whose vectors are made at a time."""
RECOMMENDED_SCORES = 2**24
"""Scores held at a time when recommending: 64 MiB of float32."""

LENGTH_BINS = (1, 5, 10, 20, 50)
"""Lower ends of the classes of users, by the interactions before the label."""
LABEL_COUNT_BINS = (0, 1, 5, 20, 100)
"""Lower ends of the classes of labels, by their training interactions: never seen, cold, ... warm."""

NEAR_BEST = 0.95
"""Share of the best validation metric whose first reaching is reported."""

DIVERGED = "a score is NaN or infinite: the model has diverged; lower the learning rate and train again"

Score = Callable[[Tensor, int, int], Tensor]
"""(user rows [B], first item, last item exclusive) -> scores [B, last - first]; -inf is no candidate."""


@dataclass(frozen=True)
class Metrics:
    """The metrics at their cut-offs, of `users` users; those of lists only where all users of a split are meant."""

    users: int
    values: dict[str, float]
    """{hr_10: ..., ndcg_10: ...}, by the column names of `history`."""
    errors: dict[str, float]
    """Standard errors of the means over users, by the same names: of a share (HR) the binomial one,
    sqrt(p (1-p) / users), else that of the sample mean. Metrics of lists have none."""

    def value(self, title: str) -> float:
        """The value of a metric such as `NDCG@10`."""
        return self.values[column(title)]

    def error(self, title: str) -> float | None:
        """The standard error of a metric such as `NDCG@10`; None where it is no mean over users."""
        return self.errors.get(column(title))

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each metric and cut-off, in the columns of `reports/metrics/metrics`."""
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
    """The ranks of the labels of a split, and what they are broken down by, [E]; and all users' lists. On the CPU."""

    ranks: Tensor
    """float64; halves where scores are equal."""
    history_lengths: Tensor
    """int64, the user's interactions before the label, also those beyond the L that the model sees."""
    label_counts: Tensor
    """int64, training interactions of the label, from all users."""
    listed: Mapping[int, Tensor]
    """[N] int64 by k: how many users have each item in their top k."""

    def metrics(self) -> Metrics:
        """Of all users and of their lists."""
        found = metrics_of_ranks(self.ranks)
        return replace(found, values=found.values | self.of_lists())

    def of_lists(self) -> dict[str, float]:
        """The metrics of lists: {coverage_10: ...}."""
        return {metric.column(k): metric.value(self.listed[k]) for metric in of_lists() for k in metric.cutoffs}

    def breakdown(self) -> Iterator[tuple[str, int, int | None, Metrics]]:
        """(what by, lowest, highest (None: open), metrics of users) of every class that has a user."""
        for name, values, lows in (
            ("history_length", self.history_lengths, LENGTH_BINS),
            ("label_count", self.label_counts, LABEL_COUNT_BINS),
        ):
            members = torch.bucketize(values, torch.tensor(lows), right=True) - 1
            for c, low in enumerate(lows):
                if (chosen := members == c).any():
                    high = None if c + 1 == len(lows) else lows[c + 1] - 1
                    yield name, low, high, metrics_of_ranks(self.ranks[chosen])


@dataclass(frozen=True)
class Outcome:
    """How a model came about: a row of `reports/metrics/outcomes`. None where there was no training."""

    model: str
    parameters: int
    best_epoch: int | None = None
    epochs: int | None = None
    optimiser_steps_to_best: int | None = None
    examples_to_best: int | None = None
    epochs_to_95: int | None = None
    """Up to the first epoch that reaches 95% of the best validation; None where there was no validation."""
    optimiser_steps_to_95: int | None = None
    examples_to_95: int | None = None


def first_near_best(values: Sequence[float | None]) -> int | None:
    """Where a metric by epoch first reaches NEAR_BEST of its best; None where it was never measured."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    enough = NEAR_BEST * max(measured)
    return next(place for place, value in enumerate(values) if value is not None and value >= enough)


def metrics_of_ranks(ranks: Tensor) -> Metrics:
    """The metrics of users, of ranks [U] (halves allowed, 1 is the best).

    Raises:
        ModelError: there is no rank.
    """
    users = len(ranks)
    if not users:
        raise ModelError(
            "no user to evaluate: no sequence reaches this split; a user needs 3 interactions for validation and 2 "
            "for testing: give more interactions, or lower k of the k-core"
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


def ranks_by_counting(
    score: Score, labels: Tensor, rows: int, item_block: int | None = None, listed: Listed | None = None
) -> Tensor:
    """Ranks [U] float64 of the labels [U] among the items 0..rows-1, scored `item_block` at a time.

    What users have in their top k is added to `listed`.

    Raises:
        ModelError: a score is NaN, that of a label is -inf, or a label is no item.
    """
    if ((labels < 1) | (labels >= rows)).any():
        raise ModelError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but items are 1..{rows - 1} (0 is padding): "
            "build core/sequences again"
        )
    block = min(rows, item_block or (ITEM_BLOCK_CPU if labels.device.type == "cpu" else ITEM_BLOCK))
    starts = range(0, rows, block)
    ranks = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    broken = torch.zeros((), dtype=torch.bool, device=labels.device)
    for part in _split(labels.argsort(stable=True), USER_BLOCK):
        label = labels[part]
        # The label's score is taken from the very product that is compared with it: another product of the
        # same numbers may differ in the last bit, and break ties. As labels are sorted, few blocks hold them all.
        own = torch.full((len(part),), -torch.inf, device=labels.device)
        made, kept = -1, own
        least, most = label[[0, -1]].tolist()
        for low in starts[least // block : most // block + 1]:
            made, kept = low, score(part, low, min(low + block, rows))
            inside = (label >= low) & (label < low + block)
            value = kept.gather(1, (label - low).clamp(0, kept.shape[1] - 1)[:, None])[:, 0]
            own = torch.where(inside, value, own)
        higher = torch.zeros(len(part), dtype=torch.int64, device=labels.device)
        at_least = torch.zeros_like(higher)
        best = listed.best(len(part)) if listed else None
        for low in starts:
            scores = kept if low == made else score(part, low, min(low + block, rows))
            # Summed in 32 bits, which is several times faster than in 64.
            higher += (scores > own[:, None]).sum(1, dtype=torch.int32)
            at_least += (scores >= own[:, None]).sum(1, dtype=torch.int32)
            # The largest is NaN where any is; looked at once, at the end: every look waits for the device.
            broken |= scores.amax().isnan()
            if best:
                best.see(scores, low)
        if listed and best:
            listed.add(best)
        broken |= own.isneginf().any()
        ranks[part] = (1 + higher + at_least).double() / 2  # 1 + higher + (equal - 1) / 2
    if broken:
        raise ModelError(DIVERGED)
    return ranks


def _split(index: Tensor, size: int) -> tuple[Tensor, ...]:
    """Pieces of at most `size`; none of an empty index, of which `torch.split` makes one."""
    return torch.split(index, size) if len(index) else ()


@torch.inference_mode()
def encode_users(model: Recommender, examples: Examples, index: Tensor) -> Tensor:
    """User vectors [n,H] of the examples `index` [n] by a model in eval mode."""
    return torch.cat([_encode(model, examples, part) for part in torch.split(index, ENCODED_TOGETHER)])


def _encode(model: Recommender, examples: Examples, index: Tensor) -> Tensor:
    # From short to long, so that no batch computes positions that none of it needs.
    size = USER_BATCH_CPU if index.device.type == "cpu" else USER_BATCH
    order = torch.sort((examples.label[index] - examples.first[index]).clamp(max=examples.length), stable=True)
    batches = [
        examples.batch(index[part], int(lengths[-1]), model.rules.label_time_is_input)
        for part, lengths in zip(*(torch.split(t, size) for t in (order.indices, order.values)), strict=True)
    ]
    used = torch.unique(torch.cat([batch.items.flatten() for batch in batches]))
    vectors = model.item_vectors(used)
    users = [model.user_vectors(batch, vectors, torch.searchsorted(used, batch.items)) for batch in batches]
    return torch.cat(users)[order.indices.argsort()]


@torch.inference_mode()
def item_table(model: Recommender) -> Tensor:
    """The vectors [N+1,H] whose products with user vectors are the scores; beside them, a block is held."""
    weight = next(model.parameters())
    table = torch.empty(model.item_count + 1, model.config.hidden, dtype=weight.dtype, device=weight.device)
    for index in torch.split(torch.arange(len(table), device=weight.device), TABLE_BLOCK):
        table[index] = model.score_vectors(model.item_vectors(index), index)
    return table


@torch.inference_mode()
def rank_labels(model: Recommender, domain: DomainData, split: Split) -> Ranking:
    """The ranks of the labels of `split` (validation or test) among all items; the model's mode is restored.

    Raises:
        ModelError: a score is NaN.
    """
    was_training = model.training
    model.eval()
    try:
        device = model.device
        examples = domain.examples(split, model.config.length)
        there = examples.to(device)
        table = item_table(model)
        listed = Listed(len(table), device)
        ranks = [
            ranks_by_counting(
                _score(model, encode_users(model, there, index), table),
                there.items[there.label[index]],
                len(table),
                listed=listed,
            ).cpu()
            for index in _split(torch.arange(len(there), device=device), RANKED_TOGETHER)
        ]
    finally:
        model.train(was_training)
    return ranking(domain, examples, torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.float64), listed)


def ranking(domain: DomainData, examples: Examples, ranks: Tensor, listed: Listed) -> Ranking:
    """Ranks [E] of the examples, with what they are broken down by, and the lists that were counted with them."""
    return Ranking(
        ranks=ranks,
        history_lengths=examples.label - examples.first,
        label_counts=domain.training_counts()[domain.items[examples.label]],
        listed=listed.by_cutoff(),
    )


def evaluate(model: Recommender, domain: DomainData, split: Split) -> Metrics:
    """The metrics of `split` (validation or test) by full ranking; the model's mode is restored.

    Raises:
        ModelError: the split is empty, or a score is NaN.
    """
    return rank_labels(model, domain, split).metrics()


def _score(model: Recommender, users: Tensor, table: Tensor) -> Score:
    def score(rows: Tensor, low: int, high: int) -> Tensor:
        # Rounded to bf16, scores would tie by the dozen.
        with torch.autocast(users.device.type, enabled=False):
            return model.scores(users[rows], table[low:high], low)

    return score


@torch.inference_mode()
def recommend(
    model: Recommender,
    domain: DomainData,
    k: int = 10,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """The k best items for every user, from the whole history (test item included), in the layout of
    recommendations.

    Equal scores are ordered by item. A user who has seen nearly everything gets fewer than k rows.

    Raises:
        ModelError: k is not positive, or a score is NaN.
    """
    if k < 1:
        raise ModelError(f"k is {k}: recommend at least 1 item")
    was_training = model.training
    model.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        device = model.device
        examples = domain.examples("everything", model.config.length).to(device)
        table = item_table(model)
        together = max(1, RECOMMENDED_SCORES // len(table))
        for index in torch.split(torch.arange(len(examples), device=device), RANKED_TOGETHER):
            score = _score(model, encode_users(model, examples, index), table)
            for rows in torch.split(torch.arange(len(index), device=device), together):
                scores = score(rows, 0, len(table))
                if exclude_seen:
                    owner, items = _seen(examples, index[rows])
                    scores[owner, items] = -torch.inf
                user, rank, items, values = _best(scores, k)
                found.append((index[rows][user].cpu(), torch.stack([rank, items]).cpu(), values.cpu()))
                if progress:
                    progress(int(index[rows[-1]]) + 1, len(examples))
    finally:
        model.train(was_training)
    user_index = torch.cat([users for users, _, _ in found])
    ranked = torch.cat([pairs for _, pairs, _ in found], dim=1)
    user_ids, item_ids = pa.array(domain.user_ids, pa.string()), pa.array(domain.item_ids, pa.string())
    return pa.table(
        {
            "user_id": user_ids.take(pa.array(user_index.numpy())),
            "rank": pa.array(ranked[0].numpy(), pa.int32()),
            "item_id": item_ids.take(pa.array((ranked[1] - 1).numpy())),
            "score": pa.array(torch.cat([values for _, _, values in found]).numpy(), pa.float32()),
        },
        schema=TABLES["reports/recommendations/recommendations"],
    )


def _seen(examples: Examples, users: Tensor) -> tuple[Tensor, Tensor]:
    """(row among `users`, item) of all their interactions; `examples` are of everything, one a user."""
    first, counts = examples.first[users], (examples.label - examples.first)[users]
    owner = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
    place = torch.arange(len(owner), device=users.device) - (counts.cumsum(0) - counts)[owner]
    return owner, examples.items[first[owner] + place]


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(row, rank from 1, item, score) of the at most k best of each row of scores [B,N+1]; never padding.

    Raises:
        ModelError: a score is NaN.
    """
    if scores.amax().isnan():
        raise ModelError(DIVERGED)
    scores[:, 0] = -torch.inf
    # topk leaves open which of equal scores it takes: only the k-th best score is of use. By row, then by item:
    least = scores.topk(min(k, scores.shape[1] - 1)).values[:, -1:]
    row, item = ((scores >= least) & (scores > -torch.inf)).nonzero(as_tuple=True)
    value = scores[row, item]
    order = value.sort(descending=True, stable=True).indices
    order = order[row[order].sort(stable=True).indices]
    row, item, value = row[order], item[order], value[order]
    count = torch.bincount(row, minlength=len(scores))
    rank = torch.arange(1, len(row) + 1, device=row.device) - (count.cumsum(0) - count)[row]
    kept = rank <= k
    return row[kept], rank[kept], item[kept], value[kept]


def write_metrics(rankings: Mapping[tuple[str, Split], Ranking], outcomes: Sequence[Outcome], out: Path) -> None:
    """Write `metrics`, `breakdown` and `outcomes.parquet` into `out`; rankings are keyed (model, split)."""
    metrics: list[dict[str, object]] = []
    breakdown: list[dict[str, object]] = []
    for (model, split), found in rankings.items():
        whose = {"model": model, "split": split}
        metrics.extend(whose | row for row in found.metrics().rows())
        for by, low, high, of_class in found.breakdown():
            members = {"breakdown": by, "lowest": low, "highest": high}
            breakdown.extend(whose | members | row for row in of_class.rows())
    write_table(metrics, "reports/metrics/metrics", out / "metrics.parquet")
    write_table(breakdown, "reports/metrics/breakdown", out / "breakdown.parquet")
    write_table([asdict(outcome) for outcome in outcomes], "reports/metrics/outcomes", out / "outcomes.parquet")


def write_recommendations(recommendations: pa.Table, out: Path) -> None:
    """Write the table of `recommend` to `recommendations.parquet` in `out`."""
    pq.write_table(recommendations, out / "recommendations.parquet", row_group_size=65_536)
