"""The command `mmm4rec compare`: its HTML page, which opens without a server, and the artifact reports/comparison.

`mmm4rec.comparison` decides what is trained, and `mmm4rec.comparison.tables` computes the figures. This module collects
the inputs and shows the results.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from mmm4rec.baselines.config import BASELINES, STEPS_AN_EPOCH
from mmm4rec.comparison import trainings as comparison
from mmm4rec.comparison.tables import write_comparison
from mmm4rec.comparison.trainings import ENOUGH_STEPS, NAMES, OURS, ComparisonRequest, Keeping, Source
from mmm4rec.config import RecommenderConfig, TrainConfig
from mmm4rec.metrics import CRITERION, SHOWN_AT, figures
from mmm4rec.registry import MODELS
from mmm4rec.tables import COMPARISON
from pipelines.assets.models import DATA, is_given, is_target, load_artifacts, training_code
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import CommandError
from pipelines.planner.code_version import code_version
from pipelines.planner.step import TRAINING, recorded
from pipelines.reports.charts import MODELS as SHOWN_AS
from pipelines.reports.charts import convergence, legend, shares, svg
from pipelines.reports.report import templates
from warehouse.artifacts.lineage import Lineage
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.store import Artifact, recipe

CACHE = "comparison"
"""Cache folder for the results of trainings."""
LABELS = {
    "popularity": "popularity",
    **{name: published.label for name, published in BASELINES.items()},
    "finetuned": SHOWN_AS["finetuned"],
    "finetuned_without_id": f"{SHOWN_AS['finetuned']}, without ID",
    "scratch": SHOWN_AS["scratch"],
    "scratch_without_id": f"{SHOWN_AS['scratch']}, without ID",
    "no_time": "without time",
    "separate_projections": "projections of text and picture apart",
    "no_text_filter": "without the Fourier filter of text",
    "no_image_filter": "without the Fourier filter of pictures",
    "no_cross_filter": "without the Fourier filter of both",
    "attention": "attention in place of SSD",
    "no_feed_forward": "without feed-forward networks",
    "text_only": "text only: no item has a picture",
    "image_only": "picture only: no item has a text",
}
_HERE = Path(__file__).parent
_COUNTS = ("users", "items", "interactions")
_RUNS = (
    "mmm4rec.training.fit:pretrain",
    "mmm4rec.training.fit:fit",
    "mmm4rec.evaluation.ranking:rank_labels",
    "mmm4rec.comparison.subsets:share_of_users",
    "mmm4rec.comparison.subsets:without",
    "pipelines.assets.models:load_artifacts",
)
"""The code that trains and tests every model."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """A comparison of one domain."""

    artifact: Artifact
    rows: dict[str, list[Row]]
    """The rows of each table, by file stem."""


def ask(
    data_folder: DataFolder,
    domains: Sequence[str],
    models: Sequence[str] = (),
    seeds: int = 3,
    ablations: bool = True,
    users: Sequence[float] = (1, 10, 100),
    epochs: int | None = None,
) -> ComparisonRequest:
    """Check that a comparison is possible, and return it with the settings of the data folder.

    Args:
        data_folder: the data folder; its settings are those of the models and of training.
        domains: target domains.
        models: names from `trainings.NAMES`; popularity and item-kNN are always included. If empty: MMM4Rec
            (pre-trained if there is something to start from) and the baselines that the settings request (all
            baselines if they request none).
        seeds: number of trainings per model.
        ablations: whether to train MMM4Rec from scratch without some of its parts, too.
        users: percentages of a domain's users that MMM4Rec learns from; every other model learns from all users.
        epochs: maximum number of epochs of every training; it can only lower the maximum in the settings.

    Raises:
        CommandError: a domain is unknown, a source domain, or not built.
        ConfigError: an option is refused.
    """
    settings = data_folder.settings
    for domain in domains:
        if not is_target(data_folder, domain):
            raise CommandError(
                f"{domain} is a source domain, from which pre-training learns, so models cannot be compared on it; "
                "name a target domain"
            )
        for key in DATA:
            data_folder.store.require(key, domain)
    return ComparisonRequest(
        tuple(models) or tuple(name for name in NAMES if _is_asked(data_folder, name)),
        settings.model,
        _capped(settings.pretraining, epochs),
        _capped(settings.finetuning, epochs),
        settings.baselines,
        seeds,
        ablations,
        tuple(float(percent) for percent in users),
    )


def compare(data_folder: DataFolder, domain: str, asked: ComparisonRequest, progress: Progress) -> Compared:
    """Run the requested trainings on a target domain, and publish the figures as reports/comparison.

    Raises:
        CommandError: a source domain is not built.
        ConfigError, ModelError: as `mmm4rec.comparison.trainings.compare`. Trainings that have finished are kept.
    """
    names = [] if not asked.pretrained or is_given(data_folder) else data_folder.sources()
    given = _given(data_folder) if asked.pretrained else None
    with data_folder.store.holding([(key, name) for name in [domain, *names] for key in DATA]) as inputs:

        def build(out: Path) -> dict[str, Any]:
            target, *sources = (_source(inputs, name) for name in (domain, *names))
            cache = data_folder.cache
            keeping = Keeping(cache / CACHE, cache / TRAINING, trains=training_code, tests=_code)
            runs = comparison.compare(target, sources, asked, keeping, given=given, progress=progress)
            counts = {name: inputs[0].manifest.summary[name] for name in _COUNTS}
            return counts | asdict(write_comparison(runs, out))

        sources = {"pretrained": given[1]} if given else {}
        trained = (run.config for run in comparison.planned(asked, can_transfer=True))
        models = {MODELS[config.kind] for config in trained if isinstance(config, RecommenderConfig)}
        code = code_version(
            "mmm4rec.comparison.trainings:compare", "mmm4rec.comparison.tables:write_comparison", *models
        )
        wanted = recipe(COMPARISON, domain, code, inputs, sources, recorded(asked))
        artifact, _ = data_folder.store.publish(wanted, build)
    return Compared(artifact, {stem: _rows(artifact, stem) for stem in ("comparison", "tests", "curves", "costs")})


def page(data_folder: DataFolder, asked: ComparisonRequest, compared: Sequence[Compared]) -> str:
    """The comparisons as one HTML page that opens without a server."""
    sections = []
    lineage = Lineage.of(data_folder.store)
    for one in compared:
        domain, rows = one.artifact.domain, one.rows
        counts = tuple(one.artifact.manifest.summary[name] for name in _COUNTS)
        sections.append(
            {
                "name": domain,
                "counts": counts,
                "origin": _origin(lineage, one.artifact),
                "accuracy": _accuracy(rows, "models"),
                "published": _published(data_folder, domain, counts),
                "ablations": _accuracy(rows, "ablations"),
                "costs": _costs(rows["costs"]),
                "transfer": [row | {"label": LABELS[row["model"]]} for row in rows["tests"] if _is_transfer(row)],
                "curves": _curves(domain, rows["curves"]),
                "sweep": _sweep(domain, rows["comparison"]),
            }
        )
    return (
        templates()
        .get_template("comparison.html")
        .render(
            sections=sections,
            asked=asked,
            metrics=_shown(),
            enough_steps=ENOUGH_STEPS,
            steps_an_epoch=STEPS_AN_EPOCH,
        )
    )


def _origin(lineage: Lineage, artifact: Artifact) -> Row:
    """When a comparison was made, from which raw files of its domain, and the first and last day of their ratings."""
    made_from = [lineage.versions.get(version) for version in lineage.upstream([artifact.named])]
    mine = [one for one in made_from if one and one.domain == artifact.domain]
    times = [pq.ParquetFile(one.main).read(["time"])["time"] for one in mine if one.key == "core/interactions"]
    bounds = [pc.min_max(column).as_py() for column in times if len(column)]
    days = {name: datetime.fromtimestamp(bounds[0][name], UTC).date() for name in ("min", "max")} if bounds else {}
    files = {name: sha for one in mine if one.key.startswith("raw/") for name, sha in one.manifest.sources.items()}
    return {"made": artifact.manifest.created[:16].replace("T", " "), "days": days, "files": sorted(files.items())}


def _shown() -> list[str]:
    """The metrics of the page: all metrics at 10, and published metrics at other cut-offs."""
    published = {title for models in _published_figures().values() for of in models.values() for title in of}
    return [metric.title(k) for metric, k in figures() if k == SHOWN_AT or metric.title(k) in published]


def _rows(artifact: Artifact, stem: str) -> list[Row]:
    rows: list[Row] = pq.ParquetFile(artifact.file(f"{stem}.parquet")).read().to_pylist()
    return rows


def _is_asked(data_folder: DataFolder, model: str) -> bool:
    """Whether a model is compared if the user names no models."""
    if model in OURS:
        return not OURS[model][0] or is_given(data_folder) or bool(data_folder.sources())
    return model not in BASELINES or not data_folder.settings.baselines or model in data_folder.settings.baselines


def _capped(training: TrainConfig, epochs: int | None) -> TrainConfig:
    return training if epochs is None else replace(training, epochs=min(epochs, training.epochs))


def _source(inputs: Sequence[Artifact], domain: str) -> Source:
    versions = {artifact.ref: artifact.version for artifact in inputs if artifact.domain == domain}
    return Source(domain, partial(load_artifacts, inputs, domain), versions)


def _code(config: RecommenderConfig) -> str:
    """The version of the code that trains and tests a model. A change to another model does not affect it."""
    return code_version(*_RUNS, MODELS[config.kind])


def _given(data_folder: DataFolder) -> tuple[Path, str] | None:
    """The checkpoint that the settings name, and its sha256."""
    folder = data_folder.pretrained
    return None if folder is None else (folder, data_folder.hashes.sha256(folder / "model.safetensors"))


def _is_transfer(row: Row) -> bool:
    return bool(row["question"] == "transfer")


def _accuracy(mine: Mapping[str, Sequence[Row]], part: str) -> list[Row]:
    """One row per model trained on all users: figures by metric, and its paired test. Ablations start with the whole
    model."""
    tested = {row["model"]: row for row in mine["tests"] if row["question"] == ("best", "ablation")[part != "models"]}
    untrained = {row["model"] for row in mine["costs"] if row["percent"] == 100 and not row["trained_to_end"]}
    found: dict[str, Row] = {}
    for row in mine["comparison"]:
        if row["percent"] == 100 and (row["part"] == part or row["model"] in {t["against"] for t in tested.values()}):
            of = found.setdefault(row["model"], {"label": LABELS[row["model"]], "test": tested.get(row["model"])})
            of["untrained"] = row["model"] in untrained
            of[f"{row['metric']}@{row['k']}"] = row
            of["seeds"] = row["seeds"]
    if part != "models":
        return sorted(found.values(), key=lambda row: row["test"] is not None) if tested else []
    return sorted(found.values(), key=lambda row: -float(row[CRITERION]["value"]))


def _published(data_folder: DataFolder, domain: str, counts: tuple[int, ...]) -> list[Row]:
    """The published figures of a domain, if its users, items and interactions match the published counts."""
    known = data_folder.settings.domain(domain).published
    if known is None or counts != (known.users, known.items, known.interactions):
        return []
    return [{"label": LABELS[model], **values} for model, values in _published_figures().get(domain, {}).items()]


def _published_figures() -> dict[str, dict[str, dict[str, float]]]:
    """The published figures by domain, model and metric."""
    found: dict[str, dict[str, dict[str, float]]] = yaml.safe_load(
        (_HERE / "published_figures.yaml").read_text(encoding="utf-8")
    )
    return found


def _costs(rows: Sequence[Row]) -> list[Row]:
    """The costs of the trainings on all users, as means over the seeds."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows if row["percent"] == 100):
        mine = [row for row in rows if row["model"] == model and row["percent"] == 100]
        same = ("parameters", "learning_rate", "batch", "device")
        of: Row = {"label": LABELS[model], **{name: mine[0][name] for name in same}}
        of["untrained"] = not all(row["trained_to_end"] for row in mine)
        for name in ("examples_per_second", "best_epoch", "optimiser_steps", "optimiser_steps_to_best",
                     "optimiser_steps_to_95", "seconds_to_95", "seconds", "peak_bytes"):  # fmt: skip
            values = [row[name] for row in mine if row[name] is not None]
            of[name] = statistics.mean(values) if values else None
        found.append(of)
    return found


def _curves(domain: str, rows: Sequence[Row]) -> list[Row]:
    """Charts and their legend: the curves of MMM4Rec's trainings on all users, and those of the baselines."""
    whole = [row | {"label": LABELS[row["model"]]} for row in rows if row["percent"] == 100 and row["part"] == "models"]
    ours = [row for row in whole if row["model"] in OURS]
    others = [row for row in whole if row["model"] not in OURS]
    drawn = (("MMM4Rec", ours), ("baselines", others))
    found = []
    for title, chosen in drawn:
        figures = convergence(f"{domain}: {title}", chosen) if chosen else {}
        charts = [svg(figure, f"{domain} {title} {by}") for by, figure in figures.items()]
        found += [{"charts": charts, "legend": legend(chosen)}] if charts else []
    return found


def _sweep(domain: str, rows: Sequence[Row]) -> str | None:
    """The results by share of users, if there is more than one share."""
    chosen = [
        row | {"label": LABELS[row["model"]]}
        for row in rows
        if row["model"] in OURS and (row["metric"], row["k"]) == ("NDCG", 10)
    ]
    if len({row["percent"] for row in chosen}) < 2:
        return None
    return svg(shares("NDCG@10 by share of users", chosen), f"{domain} shares")
