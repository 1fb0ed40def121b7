"""Full ranking by counting in blocks, compared with sorting every user's scores; and the memory of an evaluation.

``python -m benchmarks.ranking [--quick] [--json]``. Three measurements, each in its own processes:

- The size of Office: the ranks of 87,346 users among 25,986 items, from ready user vectors. The plain way scores a
  batch of 1,024 users, sorts the scores and finds the label. It is slow, so it ranks only a part of the users. The two
  take turns, and the ranks of these users must agree.
- The complete evaluation at that size, by a model of the published sizes, for all users and for a quarter of them. The
  difference of the peaks is the memory that the users need, including their histories.
- The peak memory of an evaluation with a million items, with text and image vectors 768 wide and without ID.
"""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import GIB, arguments, measured, median, show
from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.evaluation.ranking import RANKED_TOGETHER, evaluate, ranks_by_counting
from mmm4rec.model.mmm4rec import MMM4Rec

OFFICE_USERS, OFFICE_ITEMS, MEAN_LENGTH = 87_346, 25_986, 7.84
HIDDEN, WIDTH, TURNS = 256, 768, 3


def main() -> None:
    """Measure, print."""
    given = arguments(__doc__ or "", users=OFFICE_USERS, items=OFFICE_ITEMS, catalogue=1_000_000, sorted_users=4096)
    shrink = 100 if given.quick else 1
    users, items, catalogue = given.users // shrink, given.items // shrink, given.catalogue // shrink
    sample = min(given.sorted_users, users)
    ours, plain = [], []
    for _ in range(1 if given.quick else TURNS):
        ours.append(measured(_count, users, items, sample))
        plain.append(measured(_sort, users, items, sample))
    for one, other in zip(ours, plain, strict=True):
        assert np.abs(one.result["ranks"] - other.result["ranks"]).max() <= 1  # the products may differ in the last bit
    counted, sorting = (float(np.median([run.result["per_second"] for run in runs])) for runs in (ours, plain))
    part, whole = (measured(_evaluate, count, items, True) for count in (users // 4, users))
    largest = measured(_evaluate, min(users, 2048), catalogue, False)
    show(
        f"full ranking of {users:,} users x {items:,} items, {torch.get_num_threads()} threads",
        {
            "speedup": counted / sorting,
            "peak_rss_gib": largest.peak_rss_gib,
            "counted_users_per_second": counted,
            "sorted_users_per_second": sorting,
            "counting_seconds": median(ours),
            "counting_peak_rss_gib": max(run.peak_rss_gib for run in ours),
            "sorting_peak_rss_gib": max(run.peak_rss_gib for run in plain),
            "evaluated_users_per_second": whole.result["per_second"],
            "evaluation_peak_rss_gib": whole.peak_rss_gib,
            "bytes_per_further_user": (whole.peak_rss_bytes - part.peak_rss_bytes) / (users - users // 4),
            "scores_gib": users * items * 4 / GIB,
            "catalogue_items": catalogue,
            "catalogue_users_per_second": largest.result["per_second"],
            "users": users,
            "items": items,
        },
        given.json,
    )


def _count(users: int, items: int, sample: int) -> dict[str, Any]:
    vectors, table, labels = _vectors(users, items)
    start = time.perf_counter()
    ranks = []
    for chunk in torch.split(torch.arange(users), RANKED_TOGETHER):
        score = partial(_score, vectors[chunk], table)
        ranks.append(ranks_by_counting(score, labels[chunk], items + 1))
    seconds = time.perf_counter() - start
    return {"per_second": users / seconds, "ranks": torch.cat(ranks)[:sample].numpy()}


def _score(vectors: Tensor, table: Tensor, rows: Tensor, low: int, high: int) -> Tensor:
    return vectors[rows] @ table[low:high].T


def _sort(users: int, items: int, sample: int) -> dict[str, Any]:
    vectors, table, labels = _vectors(users, items)
    start = time.perf_counter()
    ranks = []
    for chunk in torch.split(torch.arange(sample), 1024):
        order = (vectors[chunk] @ table.T).argsort(dim=1, descending=True)
        ranks.append((order == labels[chunk, None]).nonzero()[:, 1] + 1)
    seconds = time.perf_counter() - start
    return {"per_second": sample / seconds, "ranks": torch.cat(ranks).double().numpy()}


def _evaluate(users: int, items: int, with_id: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    domain = _domain(users, items)
    model = MMM4Rec(ModelConfig(with_id=with_id), domain)
    start = time.perf_counter()
    found = evaluate(model, domain, "test")
    return {"per_second": users / (time.perf_counter() - start), "hr_10": found.value("HR@10")}


def _vectors(users: int, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """User vectors [U,H], the item table [N+1,H] and labels [U]."""
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(users, HIDDEN, generator=random),
        torch.randn(items + 1, HIDDEN, generator=random),
        _items(torch.rand(users, generator=random), items),
    )


def _domain(users: int, items: int) -> DomainData:
    """Histories of at least 5 items, in which popular items are more frequent. Every item has text and picture."""
    random = torch.Generator().manual_seed(0)
    lengths = 5 + torch.empty(users).exponential_(1 / (MEAN_LENGTH - 4.5), generator=random).long()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    interactions = int(offsets[-1])
    days = torch.randint(0, 6000, (interactions,), generator=random)
    present = torch.arange(items + 1) > 0

    def features() -> Features:
        vectors = torch.empty(items + 1, WIDTH).normal_(generator=random)
        vectors[0] = 0
        return Features(vectors, present)

    return DomainData(
        name="synthetic",
        user_ids=[str(user) for user in range(users)],
        item_ids=[str(item) for item in range(items)],
        offsets=offsets,
        items=_items(torch.rand(interactions, generator=random), items),
        times=1_000_000_000 + days * 86_400,
        training=lengths - 2,
        validation=torch.ones_like(lengths),
        text=features(),
        image=features(),
    )


def _items(uniform: Tensor, items: int) -> Tensor:
    """Items 1..N from numbers in [0, 1); low item numbers are the most frequent."""
    return (uniform.square() * items).long().clamp(max=items - 1) + 1


if __name__ == "__main__":
    main()
