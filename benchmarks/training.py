"""Training examples per second and peak memory, compared with the published step (`benchmarks.published_step`).

``python -m benchmarks.training [--quick] [--json] [--precision bf16-mixed]``. Both sides have the published sizes,
published mode, and the same equations, weights, dropout and optimiser. They take turns, each in its own process. After
a warm-up, one step of 8 batches of 1,024 is timed (on a GPU, an epoch of ours). Speed is measured with the item count
of Scientific (4,385), memory with that of Office (25,986). First, both sides compute the loss of one batch without
dropout, and the losses must be equal.
"""

import math
import os
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from benchmarks import published_step
from benchmarks.measure import GIB, Measured, arguments, measured, show
from benchmarks.steps import Steps
from mmm4rec.config import ModelConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.examples import TOKENS
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.training.precision import AUTO, matrix_products_in

USERS, ITEMS, WIDTH, BATCH, ACCUMULATE = 8_442, 4_385, 768, 1_024, 8
MANY_ITEMS = 25_986


def main() -> None:
    """Measure, print."""
    given = arguments(__doc__ or "", turns=3, tokens=0, precision="auto", device="")
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokens = given.tokens or TOKENS[device]
    precision = AUTO[device] if given.precision == "auto" else given.precision
    users, items, many, batch = (300, 200, 400, 64) if given.quick else (USERS, ITEMS, MANY_ITEMS, BATCH)
    turns = 1 if given.quick else given.turns
    difference = measured(_difference, users, items).result
    assert difference < 1e-4, f"the two losses differ by {difference}"
    ours, plain = [], []
    for turn in range(turns):
        ours.append(measured(_ours, users, items, batch, turn, tokens, precision, device))
        plain.append(measured(_plain, users, items, batch, turn, ACCUMULATE, device))
    memory = measured(_ours, users, many, batch, 0, tokens, precision, device)
    plain_memory = measured(_plain, users, many, batch, 0, 2, device)
    rate, plain_rate = _rate(ours), _rate(plain)
    length = ours[0].result["mean_length"]
    show(
        f"training, {items:,} items, batches of {batch:,}, prefixes of {length:.1f} positions in the mean",
        {
            "speedup": rate / plain_rate,
            "memory_ratio": _peak(memory) / _peak(plain_memory),
            "examples_per_second": rate,
            "plain_examples_per_second": plain_rate,
            "peak_gib": _peak(memory) / GIB,
            "plain_peak_gib": _peak(plain_memory) / GIB,
            "loss_difference": difference,
            "mean_length": length,
            "tokens": tokens,
            "precision": precision,
            "device": _named(device),
        },
        given.json,
    )


def _ours(users: int, items: int, batch: int, seed: int, tokens: int, precision: str, device: str) -> dict[str, Any]:
    domain = make_domain(users, items)
    model = make_model(domain).train().to(device)
    steps = Steps(model, domain, batch=batch, accumulate=ACCUMULATE, precision=precision, tokens=tokens)
    with matrix_products_in(precision):
        warm_up = 3 if device == "cuda" else 1  # a GPU records the shapes of an epoch that come for the second time
        for epoch in range(warm_up):
            list(steps.epoch(epoch, None if device == "cuda" else 1))
        start = _now(device)
        done, losses = zip(*steps.epoch(warm_up + seed, None if device == "cuda" else 1), strict=True)
        rate = sum(done) / (_now(device) - start)
    assert torch.stack(losses).isfinite().all()
    return {"rate": rate, "mean_length": float(steps.examples.lengths.double().mean()), **_device_memory(device)}


def _plain(users: int, items: int, batch: int, seed: int, batches: int, device: str) -> dict[str, Any]:
    domain = make_domain(users, items)
    weights = dict(make_model(domain).named_parameters())
    model = published_step.PublishedModel(config(), domain, weights).train().to(device)
    optimiser = published_step.optimiser(model)
    loader = iter(published_step.loader(domain, model.config.length, batch, seed))
    torch.manual_seed(seed)

    def some(count: int) -> Iterator[published_step.Sample]:
        for items, times, lengths, labels in islice(loader, count):
            yield items.to(device), times.to(device), lengths.to(device), labels.to(device)

    published_step.step(model, optimiser, some(1))
    start = _now(device)
    assert math.isfinite(published_step.step(model, optimiser, some(batches)))
    return {"rate": batches * batch / (_now(device) - start), **_device_memory(device)}


def _now(device: str) -> float:
    """The time in seconds, after the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _device_memory(device: str) -> dict[str, int]:
    return {"device_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}


def _peak(run: Measured) -> int:
    """Peak memory in bytes: of the GPU if there is one, otherwise of the process."""
    return int(run.result.get("device_bytes", run.peak_rss_bytes))


def _named(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {os.cpu_count()} cores"


def _difference(users: int, items: int) -> float:
    """The difference of the two losses of one batch, without dropout."""
    domain = make_domain(users, items)
    ours = make_model(domain).eval()
    plain = published_step.PublishedModel(config(), domain, dict(ours.named_parameters())).eval()
    examples = domain.examples("training", ours.config.length)
    index = torch.arange(64)
    samples = published_step.Prefixes(domain, ours.config.length)
    with torch.no_grad():
        theirs = plain(*(torch.stack(part) for part in zip(*(samples[int(e)] for e in index), strict=True)))
        found = ours(examples.batch(index, int(examples.lengths[index].max()), label_time_is_input=True))
    return abs(float(found - theirs))


def config() -> ModelConfig:
    """Published sizes, published mode."""
    return ModelConfig(compat="published")


def make_model(domain: DomainData) -> MMM4Rec:
    """A model with reproducible weights."""
    torch.manual_seed(0)
    return MMM4Rec(config(), domain)


def make_domain(users: int, items: int, seed: int = 0) -> DomainData:
    """Random interactions as after a 5-core: 7 per user, with a tail that gives prefixes of 5 positions on average."""
    random = torch.Generator().manual_seed(seed)
    more = torch.randn(users, generator=random).mul(1.4).sub(0.1).exp().floor().long()
    counts = 5 + more.clamp(max=95)
    total = int(counts.sum())
    gaps = torch.randint(0, 90, (total,), generator=random) * 86_400
    features = [
        Features(torch.randn(items + 1, WIDTH, generator=random), torch.ones(items + 1, dtype=torch.bool))
        for _ in range(2)
    ]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    times = gaps.cumsum(0)
    return DomainData(
        name="synthetic",
        user_ids=[f"u{n}" for n in range(users)],
        item_ids=[f"i{n}" for n in range(1, items + 1)],
        offsets=offsets,
        items=torch.randint(1, items + 1, (total,), generator=random),
        times=1_300_000_000 + times - torch.repeat_interleave(times[offsets[:-1]], counts),
        training=counts - 2,
        validation=torch.ones(users, dtype=torch.int64),
        text=features[0],
        image=features[1],
    )


def _rate(runs: list[Measured]) -> float:
    return statistics.median(run.result["rate"] for run in runs)


if __name__ == "__main__":
    main()
