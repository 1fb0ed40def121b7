"""Full-ranking evaluation: the ranks of the labels of a split among all items. Recommendation is in `recommending`.

**Candidates.** All items of the domain, including those that the user has seen. Padding only in published mode.
**Rank.** 1 + (candidates scored higher than the label) + (others scored equal) / 2. So a model that gives every item
the same score ranks the label in the middle, not at the top. A NaN score is an error. `mmm4rec.metrics` defines the
metrics and `results` computes them. In the same pass, `top_k` counts how many users have an item in their top k.

Ranks come from counting, not from sorting, in blocks of users and of items. Users are encoded, ranked and discarded
chunk by chunk. The memory that grows with the data is the item table [N+1,H], one number per user and a few per item.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Examples, Split
from mmm4rec.devices import on_device
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.results import Metrics, Ranking
from mmm4rec.evaluation.top_k import TopKCounts
from mmm4rec.model.recommender import Recommender

USER_BATCH = {"cpu": 128, "cuda": 4096}
"""Users that the model encodes at a time. On a CPU, small batches are twice as fast: activations fit the cache."""
ENCODED_TOGETHER = 4096
"""Users whose items pass through the adapters together, each item once."""
RANKED_TOGETHER = 16_384
"""Users that are sorted by label before ranking, so that the users of a block share few blocks of labels."""
USER_BLOCK, ITEM_BLOCK = {"cpu": 512, "cuda": 2048}, {"cpu": 2048, "cuda": 65_536}
"""The scores of this many users and items are in memory at a time. On a CPU, they fit the cache; on a GPU, they take
512 MiB."""
TABLE_BLOCK = 16_384
"""Items whose vectors are computed at a time."""

DIVERGED = "a score is NaN or infinite: the model has diverged; lower the learning rate and train again"

Score = Callable[[Tensor, int, int], Tensor]
"""(user rows [B], first item, last item exclusive) -> scores [B, last - first]; -inf: the item is not a candidate."""


def ranks_by_counting(
    score: Score, labels: Tensor, rows: int, item_block: int | None = None, top_k_counts: TopKCounts | None = None
) -> Tensor:
    """Ranks [U] float64 of the labels [U] among the items 0..rows-1, scored `item_block` at a time.

    The items in the users' top k are added to `top_k_counts`.

    Raises:
        ModelError: a score is NaN, the score of a label is -inf, or a label is not an item.
    """
    if ((labels < 1) | (labels >= rows)).any():
        raise ModelError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but items are 1..{rows - 1} (0 is padding): "
            "build core/sequences again"
        )
    block = min(rows, item_block or on_device(labels.device, ITEM_BLOCK))
    starts = range(0, rows, block)
    ranks = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    broken = torch.zeros((), dtype=torch.bool, device=labels.device)
    for part in _split(labels.argsort(stable=True), on_device(labels.device, USER_BLOCK)):
        label = labels[part]
        # The label's score comes from the same matrix product as the scores it is compared with: another product of the
        # same numbers may differ in the last bit and break ties. The labels are sorted, so they lie in few blocks.
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
        best = top_k_counts.best(len(part)) if top_k_counts else None
        for low in starts:
            scores = kept if low == made else score(part, low, min(low + block, rows))
            # int32 sums are several times faster than int64 sums.
            higher += (scores > own[:, None]).sum(1, dtype=torch.int32)
            at_least += (scores >= own[:, None]).sum(1, dtype=torch.int32)
            # amax is NaN if any score is NaN. It is read only once, at the end, because each read waits for the device.
            broken |= scores.amax().isnan()
            if best:
                best.see(scores, low)
        if top_k_counts and best:
            top_k_counts.add(best)
        broken |= own.isneginf().any()
        ranks[part] = (1 + higher + at_least).double() / 2  # 1 + higher + (equal - 1) / 2
    if broken:
        raise ModelError(DIVERGED)
    return ranks


def _split(index: Tensor, size: int) -> tuple[Tensor, ...]:
    """Pieces of at most `size`. An empty index gives no piece (`torch.split` would give one)."""
    return torch.split(index, size) if len(index) else ()


@torch.inference_mode()
def encode_users(model: Recommender, examples: Examples, index: Tensor) -> Tensor:
    """User vectors [n,H] of the examples `index` [n] by a model in eval mode."""
    return torch.cat([_encode(model, examples, part) for part in torch.split(index, ENCODED_TOGETHER)])


def _encode(model: Recommender, examples: Examples, index: Tensor) -> Tensor:
    # Sorted by length, so that a batch does not compute positions that none of its rows needs.
    size = on_device(index.device, USER_BATCH)
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
    """The vectors [N+1,H] whose products with user vectors are the scores. Building it needs one more block."""
    weight = next(model.parameters())
    table = torch.empty(model.item_count + 1, model.config.hidden, dtype=weight.dtype, device=weight.device)
    for index in torch.split(torch.arange(len(table), device=weight.device), TABLE_BLOCK):
        table[index] = model.score_vectors(model.item_vectors(index), index)
    return table


@torch.inference_mode()
def rank_labels(model: Recommender, domain: DomainData, split: Split) -> Ranking:
    """The ranks of the labels of `split` (validation or test) among all items. The model's mode is restored at the end.

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
        top_k_counts = TopKCounts(len(table), device)
        ranks = [
            ranks_by_counting(
                scorer(model, encode_users(model, there, index), table),
                there.items[there.label[index]],
                len(table),
                top_k_counts=top_k_counts,
            ).cpu()
            for index in _split(torch.arange(len(there), device=device), RANKED_TOGETHER)
        ]
    finally:
        model.train(was_training)
    return ranking(domain, examples, torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.float64), top_k_counts)


def ranking(domain: DomainData, examples: Examples, ranks: Tensor, top_k_counts: TopKCounts) -> Ranking:
    """The ranks [E] of the examples, the values for their breakdown, and the counts of the lists."""
    return Ranking(
        ranks=ranks,
        history_lengths=examples.label - examples.first,
        label_counts=domain.training_counts()[domain.items[examples.label]],
        top_k_counts=top_k_counts.by_cutoff(),
    )


def evaluate(model: Recommender, domain: DomainData, split: Split) -> Metrics:
    """The metrics of `split` (validation or test) by full ranking. The model's mode is restored at the end.

    Raises:
        ModelError: the split is empty, or a score is NaN.
    """
    return rank_labels(model, domain, split).metrics()


def scorer(model: Recommender, users: Tensor, table: Tensor) -> Score:
    """Scores users [U,H] against the item table [N+1,H]."""

    def score(rows: Tensor, low: int, high: int) -> Tensor:
        # Without autocast: in bf16, dozens of scores would be equal.
        with torch.autocast(users.device.type, enabled=False):
            return model.scores(users[rows], table[low:high], low)

    return score
