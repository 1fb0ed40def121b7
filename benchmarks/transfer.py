"""Whether pre-training helps: a target domain learned from a pre-trained model, compared with the same model from
scratch, in both modes of the model (`mmm4rec compare` uses one mode).

It uses a data folder of the pipeline with built domains (`mmm4rec run`), and its settings of model and training. The
source domains are used together for pre-training. For each seed, with and without per-item vectors, in default and in
published mode, it reports test HR@10 and NDCG@10, and the optimiser steps to the best epoch and to 95% of the best
validation value of the model from scratch. It compares steps, so other work on the machine does not affect the result.

Without a folder, or with --quick, the domains are random: this only shows that it runs, and nothing about transfer.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.measure import arguments, show
from benchmarks.training import make_domain
from mmm4rec.comparison.tables import PAIRS, accuracy_rows, by_key, speed
from mmm4rec.comparison.trainings import OURS, ComparisonRequest, Keeping, Source, compare
from mmm4rec.config import Compat, ModelConfig, TrainConfig
from mmm4rec.data.domain import DomainData
from pipelines.assets.models import DATA, load_artifacts
from pipelines.data_folder.folder import DataFolder

Row = dict[str, Any]

MODES: tuple[Compat, ...] = ("default", "published")


@dataclass(frozen=True)
class Bench:
    """The domains and settings of the trainings."""

    sources: Sequence[DomainData]
    target: DomainData
    model: ModelConfig
    pretraining: TrainConfig
    finetuning: TrainConfig


def main() -> None:
    """Train, compare, print."""
    given = arguments(__doc__ or "", data="", target="", seeds=3)
    bench = _small() if given.quick or not given.data else _of_folder(Path(given.data), given.target)
    seeds = 1 if given.quick else given.seeds
    rows: list[Row] = []
    with Progress(disable=given.json) as bar, tempfile.TemporaryDirectory() as cache:
        for mode in MODES:
            task = bar.add_task(mode)
            rows += _rows(bench, mode, seeds, Path(cache), partial(_advance, bar, task))
    title = f"{bench.target.name}: {bench.target.user_count:,} users, {bench.target.item_count:,} items, {seeds} seeds"
    if given.json:
        figures = {f"{row['model']} {name}": value for row in rows for name, value in row.items() if name != "model"}
        show(title, {name.replace(" ", "_"): value for name, value in figures.items()}, as_json=True)
        return
    table = Table(*rows[0], title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _rows(bench: Bench, mode: Compat, seeds: int, cache: Path, progress: Callable[[int, int], None]) -> list[Row]:
    """The four models of a mode: from scratch and fine-tuned, with and without per-item vectors.

    The figures are means over the seeds. Errors are over users; `spread` is the standard deviation over seeds.
    """
    model = replace(bench.model, compat=mode)
    asked = ComparisonRequest(tuple(OURS), model, bench.pretraining, bench.finetuning, {}, seeds, ablations=False)
    target, *sources = (Source(d.name, partial(_same, d), {}) for d in (bench.target, *bench.sources))
    keeping = Keeping(cache / "results", cache / "trainings")
    found = by_key([one for one in compare(target, sources, asked, keeping, progress=progress) if one.run.training])
    scratch = {ours: theirs for pair in PAIRS for ours, theirs in (pair, (pair[1], pair[1]))}
    rows = []
    for (_, name, _), trained in sorted(found.items()):
        figures = {row["metric"]: row for row in accuracy_rows(trained) if row["k"] == 10}
        reached = speed(trained, found["models", scratch[name], 100.0])
        rows.append(
            {
                "model": f"{mode} {name}",
                "HR@10": figures["HR"]["value"],
                "HR@10 error": figures["HR"]["standard_error"],
                "NDCG@10": figures["NDCG"]["value"],
                "NDCG@10 error": figures["NDCG"]["standard_error"],
                "NDCG@10 spread": figures["NDCG"]["seed_deviation"] or 0.0,
                "validation NDCG@10 before": statistics.mean(run.curve[0]["ndcg_10"] for run in trained),
                "steps to best": statistics.mean(float(run.cost["optimiser_steps_to_best"]) for run in trained),
                "seeds that reach 95% of scratch's best": reached["reached"],
                "share of its steps that takes": reached["steps_share"] or "never",
            }
        )
    return rows


def _same(domain: DomainData) -> DomainData:
    return domain


def _of_folder(data: Path, target: str) -> Bench:
    data_folder = DataFolder.find(data)
    settings = data_folder.settings
    names = data_folder.sources()
    if not names or target not in settings.domains:
        raise SystemExit(f"{data}: it needs a source domain, and --target one of {', '.join(settings.domains)}")
    return Bench(
        [load(data_folder, name) for name in names],
        load(data_folder, target),
        settings.model,
        settings.pretraining,
        settings.finetuning,
    )


def load(data_folder: DataFolder, domain: str) -> DomainData:
    """The sequences and vectors of a built domain."""
    return load_artifacts([data_folder.store.require(key, domain) for key in DATA], domain)


def _small() -> Bench:
    model = ModelConfig(hidden=16, inner=16, head_width=8, state=4)
    training = TrainConfig(epochs=2, accumulate=1, batch_size=128)
    source = replace(make_domain(60, 40), name="source")
    return Bench([source], make_domain(50, 30, 1), model, replace(training, loss="in_batch"), training)


if __name__ == "__main__":
    main()
