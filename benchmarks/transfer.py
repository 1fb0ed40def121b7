"""Whether pre-training pays: a target domain learnt from a pre-trained model, against the same model from scratch.

Over a data folder of the pipeline with built domains (`mmm4rec run`), with its settings of model and training; its
source domains are pre-trained on together. For every seed, with and without an item's own vector, in default and in
published mode: test HR@10 and NDCG@10, and the optimiser steps to the best epoch and to 95% of what the model from
scratch reaches at best on validation. Steps are what is compared, so other work on the machine changes nothing.

Without a folder (and with --quick) the domains are random ones: that shows that it runs, and nothing about transfer.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import arguments, show
from benchmarks.training import make_domain
from mmm4rec.checkpoint import load_model
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.data import DomainData
from mmm4rec.evaluation import NEAR_BEST, Metrics, evaluate
from mmm4rec.training import Epoch, fit, pretrain
from pipelines.assets.models import DATA, load_artifacts
from pipelines.settings import House, data_folder

MODES = ("default", "published")


@dataclass(frozen=True)
class Trained:
    """One fine-tuning, or one training from scratch."""

    test: Metrics
    curve: tuple[tuple[int, float], ...]
    """Optimiser steps and validation NDCG@10 of every epoch, before the first on."""

    @property
    def best(self) -> float:
        """Validation NDCG@10 of the best epoch."""
        return max(value for _, value in self.curve)

    def steps_to(self, value: float) -> int | None:
        """Optimiser steps until validation NDCG@10 is as good as this; None if it never is."""
        return next((steps for steps, found in self.curve if found >= value), None)


@dataclass(frozen=True)
class Bench:
    """What is trained, and how."""

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
    runs: dict[tuple[str, bool, str], list[Trained]] = {}
    with Progress(disable=given.json) as bar:
        task = bar.add_task("trainings", total=seeds * len(MODES) * 5)
        for seed, mode in product(range(seeds), MODES):
            for key, trained in _one_seed(bench, mode, bench.finetuning.seed + seed, lambda: bar.advance(task)).items():
                runs.setdefault(key, []).append(trained)
    rows = [_row(bench, runs, key) for key in sorted(runs)]
    title = f"{bench.target.name}: {bench.target.user_count:,} users, {bench.target.item_count:,} items, {seeds} seeds"
    if given.json:
        figures = {f"{row['model']} {name}": value for row in rows for name, value in row.items() if name != "model"}
        show(title, {name.replace(" ", "_"): value for name, value in figures.items()}, as_json=True)
        return
    table = Table(*rows[0], title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def _one_seed(bench: Bench, mode: Any, seed: int, done: Any) -> dict[tuple[str, bool, str], Trained]:
    """The four models of a mode: from scratch and fine-tuned, with and without an item's own vector."""
    model = replace(bench.model, compat=mode)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "pretrained"
        base.mkdir()
        pretrain(bench.sources, model, replace(bench.pretraining, seed=seed), base)
        done()
        for with_id, init in product((True, False), (None, base)):
            out = Path(name) / f"{with_id}-{init is None}"
            out.mkdir()
            curve: list[Epoch] = []
            config = replace(bench.finetuning, seed=seed)
            fit(bench.target, replace(model, with_id=with_id), config, out, init=init, on_epoch=curve.append)
            test = evaluate(load_model(out, bench.target), bench.target, "test")
            points = tuple((e.optimiser_steps, e.validation.ndcg[10]) for e in curve if e.validation)
            found[mode, with_id, "scratch" if init is None else "pretrained"] = Trained(test, points)
            done()
    return found


def _row(
    bench: Bench, runs: dict[tuple[str, bool, str], list[Trained]], key: tuple[str, bool, str]
) -> dict[str, float | int | str]:
    """Means over the seeds. Standard errors are over users; `spread` is the standard deviation over seeds."""
    mode, with_id, _ = key
    trained, scratch = runs[key], runs[mode, with_id, "scratch"]
    ndcg = [run.test.ndcg[10] for run in trained]
    reached = [
        (run.steps_to(NEAR_BEST * other.best), other.steps_to(other.best))
        for run, other in zip(trained, scratch, strict=True)
    ]
    shares = [steps / best for steps, best in reached if steps is not None and best]
    return {
        "model": " ".join([mode, "with ID" if with_id else "without ID", key[2]]),
        "HR@10": statistics.mean(run.test.hr[10] for run in trained),
        "HR@10 error": statistics.mean(run.test.hr_error[10] for run in trained),
        "NDCG@10": statistics.mean(ndcg),
        "NDCG@10 error": statistics.mean(run.test.ndcg_error[10] for run in trained),
        "NDCG@10 spread": statistics.pstdev(ndcg),
        "validation NDCG@10 before": statistics.mean(run.curve[0][1] for run in trained),
        "steps to best": statistics.mean(float(run.steps_to(run.best) or 0) for run in trained),
        "seeds that reach 95% of scratch's best": len(shares),
        "share of its steps that takes": statistics.mean(shares) if shares else "never",
    }


def _of_folder(data: Path, target: str) -> Bench:
    house = House(data_folder(data))
    settings = house.settings
    names = house.sources()
    if not names or target not in settings.domains:
        raise SystemExit(f"{data}: it needs a source domain, and --target one of {', '.join(settings.domains)}")
    return Bench(
        [_load(house, name) for name in names],
        _load(house, target),
        settings.model,
        settings.pretraining,
        settings.finetuning,
    )


def _load(house: House, domain: str) -> DomainData:
    return load_artifacts([house.store.require(key, domain) for key in DATA], domain)


def _small() -> Bench:
    model = ModelConfig(hidden=16, inner=16, head_width=8, state=4)
    training = TrainConfig(epochs=2, accumulate=1, batch_size=128)
    source = replace(make_domain(60, 40), name="source")
    return Bench([source], make_domain(50, 30, 1), model, replace(training, loss="in_batch"), training)


if __name__ == "__main__":
    main()
