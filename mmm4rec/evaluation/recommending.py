"""Recommendation: the best items for every user, from the whole history. It uses no labels."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmm4rec.data.domain import DomainData
from mmm4rec.data.examples import Examples
from mmm4rec.errors import ModelError
from mmm4rec.evaluation.ranking import DIVERGED, RANKED_TOGETHER, encode_users, item_table, scorer
from mmm4rec.model.recommender import Recommender
from mmm4rec.tables import TABLES

_LISTS = TABLES["reports/recommendations/recommendations"]
RECOMMENDED_SCORES = 2**24
"""The number of scores in memory at a time when recommending: 64 MiB of float32."""


@torch.inference_mode()
def recommend(
    model: Recommender,
    domain: DomainData,
    k: int = 10,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """The k best items for every user, from the whole history (including the test item): the columns of
    `reports/recommendations` except the model.

    Items with equal scores are ordered by item. A user who has seen nearly all items gets fewer than k rows.

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
            score = scorer(model, encode_users(model, examples, index), table)
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
        schema=_LISTS.remove(_LISTS.get_field_index("model")),
    )


def _seen(examples: Examples, users: Tensor) -> tuple[Tensor, Tensor]:
    """(row in `users`, item) of all their interactions. `examples` are those of `everything`, one per user."""
    first, counts = examples.first[users], (examples.label - examples.first)[users]
    owner = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
    place = torch.arange(len(owner), device=users.device) - (counts.cumsum(0) - counts)[owner]
    return owner, examples.items[first[owner] + place]


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(row, rank from 1, item, score) of at most the k best items of each row of scores [B,N+1], never padding.

    Raises:
        ModelError: a score is NaN.
    """
    if scores.amax().isnan():
        raise ModelError(DIVERGED)
    scores[:, 0] = -torch.inf
    # topk does not define which of several equal scores it takes, so only the k-th best score is used.
    # The order is by row, then by score, then by item.
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


def write_recommendations(lists: Mapping[str, pa.Table], out: Path) -> None:
    """Write the tables of `recommend`, given by model name, to `recommendations.parquet` in `out`."""
    with pq.ParquetWriter(out / "recommendations.parquet", _LISTS) as writer:
        for model, table in lists.items():
            named = table.add_column(0, _LISTS.field("model"), pa.repeat(model, table.num_rows))
            writer.write_table(named, row_group_size=65_536)
