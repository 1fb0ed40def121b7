"""Full-ranking evaluation and recommendation.

**Candidates.** All items of the domain, also those the user has seen; padding only in published mode.
**Rank.** 1 + (candidates scored higher than the label) + (others scored equal) / 2, so that a model which
scores everything alike gets the middle, not the top. **HR@k** is the share of users whose label ranks at k or
better, **NDCG@k** the mean of 1 / log2(1 + rank) where it does and 0 where not. A NaN score is an error.

Ranks come from counting, not sorting, in blocks of users and items: memory does not grow with users x items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmm4rec.config import CUTOFFS
from mmm4rec.data import DomainData, Examples, Split
from mmm4rec.errors import ModelError
from mmm4rec.model import MMM4Rec
from mmm4rec.tables import TABLES, write_table

ITEM_BLOCK = 65_536
BLOCK_SCORES = 2**24
"""Scores held at a time: 64 MiB of float32."""
USER_BATCH = 1024

Score = Callable[[Tensor, int, int], Tensor]
"""(user rows [B], first item, last item exclusive) -> scores [B, last - first]; -inf is no candidate."""


@dataclass(frozen=True)
class Metrics:
    """HR and NDCG at the cut-offs, over `users` users."""

    users: int
    hr: dict[int, float]
    ndcg: dict[int, float]
    hr_error: dict[int, float]
    """Binomial standard error sqrt(p (1-p) / users)."""
    ndcg_error: dict[int, float]
    """Standard error of the sample mean."""

    def value(self, metric: str) -> float:
        """The value of `HR@k` or `NDCG@k`."""
        name, k = metric.split("@")
        return (self.hr if name == "HR" else self.ndcg)[int(k)]

    def flat(self) -> dict[str, float]:
        """{hr_10: ..., ndcg_10: ...}, the column names of `history`."""
        return {f"{name}_{k}": v for name in ("hr", "ndcg") for k, v in getattr(self, name).items()}


@dataclass(frozen=True)
class Outcome:
    """How a model came about: a row of `reports/metrics/outcomes`. None where there was no training."""

    model: str
    parameters: int
    best_epoch: int | None = None
    epochs: int | None = None
    optimiser_steps_to_best: int | None = None
    examples_to_best: int | None = None


def metrics_of_ranks(ranks: Tensor) -> Metrics:
    """Metrics of ranks [U] (halves allowed, 1 is the best).

    Raises:
        ModelError: there is no rank.
    """
    users = len(ranks)
    if not users:
        raise ModelError("no user to evaluate: every sequence is too short for this split")
    ranks = ranks.double()
    gain = 1 / torch.log2(1 + ranks)
    hr, ndcg, hr_error, ndcg_error = {}, {}, {}, {}
    for k in CUTOFFS:
        hit = ranks <= k
        gains = torch.where(hit, gain, 0.0)
        hr[k], ndcg[k] = float(hit.double().mean()), float(gains.mean())
        hr_error[k] = (hr[k] * (1 - hr[k]) / users) ** 0.5
        ndcg_error[k] = float(gains.std()) / users**0.5 if users > 1 else 0.0
    return Metrics(users, hr, ndcg, hr_error, ndcg_error)


def ranks_by_counting(score: Score, labels: Tensor, rows: int) -> Tensor:
    """Ranks [U] float64 of the labels [U] among the items 0..rows-1.

    Raises:
        ModelError: a score is NaN, or a label is no candidate.
    """
    width = min(rows, ITEM_BLOCK)
    blocks = [(low, min(low + width, rows)) for low in range(0, rows, width)]
    ranks = []
    for part in torch.split(torch.arange(len(labels), device=labels.device), max(1, BLOCK_SCORES // width)):
        label = labels[part]
        # The label's score is taken from the very product that is compared with it: another product of the
        # same numbers may differ in the last bit, and break ties.
        own = torch.zeros(len(part), device=labels.device)
        kept: Tensor | None = None
        for low, high in blocks:
            kept = score(part, low, high)
            inside = (label >= low) & (label < high)
            value = kept.gather(1, (label - low).clamp(0, high - low - 1)[:, None])[:, 0]
            own = torch.where(inside, value, own)
        higher = torch.zeros(len(part), dtype=torch.int64, device=labels.device)
        equal = torch.zeros_like(higher)
        for low, high in blocks:
            scores = kept if kept is not None and len(blocks) == 1 else score(part, low, high)
            if scores.isnan().any():
                raise ModelError("a score is NaN: the model has diverged; lower the learning rate and train again")
            higher += (scores > own[:, None]).sum(1)
            equal += (scores == own[:, None]).sum(1)
        if own.isneginf().any():
            raise ModelError("a label is no candidate (padding, item 0): build core/sequences again")
        ranks.append(1 + higher + (equal - 1) / 2)
    return torch.cat(ranks).double() if ranks else torch.zeros(0, dtype=torch.float64)


@torch.inference_mode()
def encode_users(model: MMM4Rec, examples: Examples, vectors: Tensor) -> Tensor:
    """User vectors [E,H] of the examples by a model in eval mode; vectors are its `item_vectors()`."""
    leaks = model.rules.label_time_is_input
    users = vectors.new_zeros(len(examples), model.config.hidden)
    for index, longest in examples.by_length(USER_BATCH):
        batch = examples.batch(index, longest, leaks)
        users[index] = model.user_vectors(batch, vectors, batch.items)
    return users


@torch.inference_mode()
def evaluate(model: MMM4Rec, domain: DomainData, split: Split) -> Metrics:
    """HR and NDCG of `split` (validation or test) by full ranking; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        device = model.text_features.device
        examples = domain.examples(split, model.config.length).to(device)
        vectors = model.item_vectors()
        users = encode_users(model, examples, vectors)
        labels = examples.items[examples.label]
        return metrics_of_ranks(ranks_by_counting(_score(model, users, vectors), labels, vectors.shape[1]))
    finally:
        model.train(was_training)


def _score(model: MMM4Rec, users: Tensor, vectors: Tensor) -> Score:
    table = model.score_vectors(vectors)

    def score(rows: Tensor, low: int, high: int) -> Tensor:
        return model.scores(users[rows], table[low:high], low)

    return score


@torch.inference_mode()
def recommend(
    model: MMM4Rec,
    domain: DomainData,
    k: int = 10,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """The k best items for every user, from the whole history (test item included), in the layout of
    recommendations.

    Equal scores are ordered by item. A user who has seen nearly everything gets fewer than k rows.
    """
    was_training = model.training
    model.eval()
    try:
        device = model.text_features.device
        examples = domain.examples("everything", model.config.length).to(device)
        vectors = model.item_vectors()
        users = encode_users(model, examples, vectors)
        score = _score(model, users, vectors)
        rows = vectors.shape[1]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in torch.split(torch.arange(len(users), device=device), max(1, BLOCK_SCORES // rows)):
            scores = score(part, 0, rows)
            if scores.isnan().any():
                raise ModelError("a score is NaN: the model has diverged; lower the learning rate and train again")
            scores[:, 0] = -torch.inf
            if exclude_seen:
                first, last = int(domain.offsets[part[0]]), int(domain.offsets[part[-1] + 1])
                counts = (domain.offsets[part.cpu() + 1] - domain.offsets[part.cpu()]).to(device)
                owner = torch.repeat_interleave(torch.arange(len(part), device=device), counts)
                scores[owner, examples.items[first:last]] = -torch.inf
            best = scores.topk(min(k, rows - 1))
            # topk leaves the order of equal scores open: sort by item, then stably by score.
            items, order = best.indices.sort(dim=1)
            values, order = best.values.gather(1, order).sort(dim=1, descending=True, stable=True)
            items = items.gather(1, order)
            user, rank = values.isfinite().nonzero(as_tuple=True)
            found.append((part[user].cpu(), torch.stack([rank + 1, items[user, rank]]).cpu(), values[user, rank].cpu()))
            if progress:
                progress(int(part[-1]) + 1, len(users))
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


def write_metrics(results: Mapping[tuple[str, Split], Metrics], outcomes: Sequence[Outcome], out: Path) -> None:
    """Write `metrics.parquet` and `outcomes.parquet` into `out`; results are keyed (model, split)."""
    rows = [
        {
            "model": model,
            "split": split,
            "metric": name,
            "k": k,
            "value": values[k],
            "standard_error": errors[k],
            "users": m.users,
        }
        for (model, split), m in results.items()
        for name, values, errors in (("HR", m.hr, m.hr_error), ("NDCG", m.ndcg, m.ndcg_error))
        for k in CUTOFFS
    ]
    write_table(rows, "reports/metrics/metrics", out / "metrics.parquet")
    write_table([asdict(outcome) for outcome in outcomes], "reports/metrics/outcomes", out / "outcomes.parquet")


def write_recommendations(recommendations: pa.Table, out: Path) -> None:
    """Write the table of `recommend` to `recommendations.parquet` in `out`."""
    pq.write_table(recommendations, out / "recommendations.parquet", row_group_size=65_536)
