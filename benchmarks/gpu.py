"""What a GPU reaches, as one table: training, accuracy, ranking and extraction, each beside its target.

``python -m benchmarks.gpu [--quick] [--json] [--domain FOLDER] [--extraction no]``. It needs a GPU and about three
minutes. `--domain` is a folder with `sequences.parquet`, `items.parquet`, `text.parquet` and `image.parquet` of a real
domain, as `mmm4rec.data.reading.load_domain` reads them; without it, the accuracy is not measured. The targets are
those of one H200 or H100. Every figure is from this run; ratios compare figures of this run.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import published_step
from benchmarks.measure import GIB, arguments, show
from benchmarks.steps import Steps
from benchmarks.training import ACCUMULATE, BATCH, ITEMS, MANY_ITEMS, USERS, config, make_domain, make_model
from mmm4rec.checkpoint import load_model
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.data.reading import load_domain
from mmm4rec.evaluation.ranking import evaluate, rank_labels
from mmm4rec.model.mmm4rec import MMM4Rec
from mmm4rec.training.fit import fit
from mmm4rec.training.precision import AUTO, matrix_products_in
from mmm4rec.training.record import Epoch

SOURCE_ITEMS, SOURCE_WIDTH = 447_000, 512
"""The five source domains together: items, and the width of CLIP's vectors."""
PRECISIONS = ("tf32", "bf16-mixed")
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Row:
    """One measurement. `target` is empty if there is none."""

    name: str
    value: float
    unit: str
    target: str = ""


def main() -> None:
    """Measure, print."""
    given = arguments(__doc__ or "", domain="", extraction="yes")
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: there is no GPU here")
    rows: list[Row] = []
    sections: list[Callable[[bool], list[Row]]] = [fine_tuning, epochs, many_items, pre_training, ranking]
    if given.domain:
        sections.append(lambda quick: accuracy(Path(given.domain), quick))
    if given.extraction == "yes":
        sections.append(extraction)
    for section in sections:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        found = section(given.quick)
        for row in found:
            print(f"{row.name} {row.value:.6g} {row.unit}", file=sys.stderr)
        print(f"({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
        rows += found
    if given.json:
        show("", {row.name: row.value for row in rows} | {"device": torch.cuda.get_device_name()}, as_json=True)
        return
    table = Table(title=torch.cuda.get_device_name(), title_justify="left", box=box.SIMPLE_HEAD)
    for heading, justify in (("what", "left"), ("measured", "right"), ("unit", "left"), ("target", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row.name, f"{row.value:,.4g}" if row.value < 1000 else f"{row.value:,.0f}", row.unit, row.target)
    Console(width=120).print(table)


def fine_tuning(quick: bool) -> list[Row]:
    """Training steps of both sides at the published sizes, without validation."""
    domain = make_domain(*((300, 200) if quick else (USERS, ITEMS)))
    published = max(_published(domain, "high") for _ in range(1 if quick else 3))
    rows = [Row("published_examples_per_second", published, "examples/s")]
    best = 0.0
    for precision in ("32-true", *PRECISIONS):
        rate = training_rate(make_model(domain), domain, precision, quick)
        rows.append(Row(f"finetuning_examples_per_second_{_word(precision)}", rate, "examples/s", ">= 400,000"))
        best = max(best, rate)
    chosen = next(row.value for row in rows if row.name.endswith(_word(AUTO["cuda"])))
    return [
        *rows,
        Row("finetuning_speedup", chosen / published, "x the published step", ">= 10"),
        Row("finetuning_speedup_best_precision", best / published, "x the published step", ">= 10"),
    ]


def epochs(quick: bool) -> list[Row]:
    """A whole `fit` with validation: the median epoch after the first three, which record their shapes."""
    domain = make_domain(*((300, 200) if quick else (USERS, ITEMS)))
    ends: list[float] = []

    def on_epoch(epoch: Epoch) -> None:
        torch.cuda.synchronize()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        fit(domain, ModelConfig(), TrainConfig(epochs=6 if quick else 12, patience=None), Path(out), on_epoch=on_epoch)
    seconds = [after - before for before, after in pairwise(ends)]
    model = MMM4Rec(ModelConfig(), domain).cuda()
    validation = statistics.median(_seconds(lambda: evaluate(model, domain, "validation")) for _ in range(5))
    whole = statistics.median(seconds[3:])
    return [
        Row("first_epoch_seconds", seconds[0], "s"),
        Row("epoch_with_validation_seconds", whole, "s", "<= 0.2"),
        Row("epoch_seconds", whole - validation, "s", "<= 0.12"),
        Row("validation_seconds", validation, "s"),
    ]


def many_items(quick: bool) -> list[Row]:
    """The full softmax over the items of Office."""
    domain = make_domain(*((300, 400) if quick else (USERS, MANY_ITEMS)))
    rows = []
    for precision in PRECISIONS:
        torch.cuda.reset_peak_memory_stats()
        rate = training_rate(make_model(domain), domain, precision, quick)
        peak = torch.cuda.max_memory_allocated() / GIB
        rows.append(Row(f"many_items_examples_per_second_{_word(precision)}", rate, "examples/s", ">= 250,000"))
        rows.append(Row(f"many_items_peak_gib_{_word(precision)}", peak, "GiB", "<= 3"))
    return rows


def pre_training(quick: bool) -> list[Row]:
    """The in-batch loss at the number of items of the five source domains, features resident on the GPU."""
    domain = with_items(make_domain(300 if quick else 100_000, 1000), 2_000 if quick else SOURCE_ITEMS)
    rows = []
    for precision in PRECISIONS:
        torch.cuda.reset_peak_memory_stats()
        model = MMM4Rec(ModelConfig(with_id=False), domain)
        rate = training_rate(model, domain, precision, quick, in_batch=True)
        rows.append(Row(f"pretraining_examples_per_second_{_word(precision)}", rate, "examples/s", ">= 250,000"))
        rows.append(Row(f"pretraining_peak_gib_{_word(precision)}", torch.cuda.max_memory_allocated() / GIB, "GiB"))
    return rows


def ranking(quick: bool) -> list[Row]:
    """The evaluation of a model of the published sizes; memory beyond the model itself."""
    rows = []
    for users, items in ((300, 400), (300, 2_000)) if quick else ((87_346, MANY_ITEMS), (100_000, SOURCE_ITEMS)):
        domain = with_items(make_domain(users, 1000), items)
        model = MMM4Rec(ModelConfig(with_id=False), domain).cuda()
        before = torch.cuda.memory_allocated()
        rank_labels(model, domain, "validation")
        torch.cuda.reset_peak_memory_stats()
        seconds = _seconds(lambda model=model, domain=domain: rank_labels(model, domain, "test"))  # type: ignore[misc]
        size = f"{users}_users_{items}_items"
        rows.append(Row(f"ranking_seconds_{size}", seconds, "s"))
        rows.append(
            Row(f"ranking_peak_gib_{size}", (torch.cuda.max_memory_allocated() - before) / GIB, "GiB beyond the model")
        )
    return rows


def accuracy(folder: Path, quick: bool) -> list[Row]:
    """NDCG@10 on the test split of a real domain by precision, and twice with the same seed."""
    domain = load_domain(folder, folder / "text.parquet", folder / "image.parquet", folder.name)
    training = TrainConfig(epochs=2 if quick else 10, patience=None, learning_rate=1e-3, validate_every=5)

    def trained(precision: str, seed: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as out:
            summary = replace(training, precision=precision, seed=seed)  # type: ignore[arg-type]
            fit(domain, ModelConfig(), summary, Path(out))
            found = evaluate(load_model(Path(out), domain).cuda(), domain, "test")
        return found.value("NDCG@10"), found.error("NDCG@10") or 0.0

    seeds = SEEDS[:1] if quick else SEEDS
    found = {precision: [trained(precision, seed) for seed in seeds] for precision in ("32-true", *PRECISIONS)}
    again = trained(AUTO["cuda"], seeds[0])[0]
    means = {precision: statistics.mean(value for value, _ in values) for precision, values in found.items()}
    error = found["32-true"][0][1]
    rows = [
        Row(f"ndcg_10_{_word(precision)}", mean, f"mean of {len(seeds)} seeds") for precision, mean in means.items()
    ]
    rows.append(Row("ndcg_10_standard_error", error, "over test users"))
    for precision in PRECISIONS:
        distance = abs(means[precision] - means["32-true"]) / error
        rows.append(Row(f"distance_{_word(precision)}_from_float32", distance, "standard errors", "<= 1"))
    rows.append(Row("same_seed_difference", abs(again - found[AUTO["cuda"]][0][0]), "NDCG@10", "<= 0.001"))
    return rows


def extraction(quick: bool) -> list[Row]:
    """The figures of `benchmarks.extraction`."""
    from benchmarks.extraction import measure

    targets = {"fraction_of_smaller": ">= 0.8", "fraction_of_smaller_gpu_decoding": ">= 0.8"}
    return [
        Row(f"extraction_{name}", float(value), "", targets.get(name, ""))
        for name, value in measure(quick)[1].items()
        if not isinstance(value, str)
    ]


def training_rate(
    model: MMM4Rec, domain: DomainData, precision: str, quick: bool = False, in_batch: bool = False
) -> float:
    """Examples per second of the median of three epochs (of at most 20 steps), after three that record the shapes."""
    model = model.train().cuda()
    steps = Steps(model, domain, batch=BATCH, accumulate=ACCUMULATE, precision=precision, in_batch=in_batch)
    rates, losses = [], []
    with matrix_products_in(precision):
        for epoch in range(2 if quick else 6):
            torch.cuda.synchronize()
            start = time.perf_counter()
            done, losses = zip(*steps.epoch(epoch, 20), strict=True)  # type: ignore[assignment]
            torch.cuda.synchronize()
            rates.append(sum(done) / (time.perf_counter() - start))
    assert torch.stack(list(losses)).isfinite().all()
    return statistics.median(rates[len(rates) // 2 :])


def with_items(domain: DomainData, items: int) -> DomainData:
    """The same sequences over this number of items, with random features of CLIP's width."""
    random = torch.Generator().manual_seed(0)

    def features() -> Features:
        vectors = torch.randn(items + 1, SOURCE_WIDTH, generator=random)
        return Features(vectors, torch.ones(items + 1, dtype=torch.bool))

    return replace(
        domain,
        items=torch.randint(1, items + 1, (len(domain.items),), generator=random),
        item_ids=[f"i{number}" for number in range(items)],
        text=features(),
        image=features(),
    )


def _published(domain: DomainData, matrix_products: str) -> float:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(matrix_products)
    try:
        weights = dict(make_model(domain).named_parameters())
        model = published_step.PublishedModel(config(), domain, weights).train().cuda()
        optimiser = published_step.optimiser(model)
        loader = published_step.loader(domain, model.config.length, BATCH, 0)
        # The batches are ready on the GPU, so that only the steps are compared.
        batches: list[Any] = [tuple(tensor.cuda() for tensor in batch) for batch in islice(loader, 2 * ACCUMULATE)]
        published_step.step(model, optimiser, batches[:ACCUMULATE])
        seconds = _seconds(lambda: published_step.step(model, optimiser, batches[ACCUMULATE:] or batches))
        return sum(len(batch[0]) for batch in batches[ACCUMULATE:] or batches) / seconds
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _word(precision: str) -> str:
    return {"32-true": "float32", "tf32": "tf32", "bf16-mixed": "bf16"}[precision]


if __name__ == "__main__":
    main()
