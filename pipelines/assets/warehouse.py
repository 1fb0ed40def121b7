"""Layer warehouse: the files that people open, which are the analysts' catalogue of all current data and the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.metrics import shown
from mmm4rec.tables import COMPARISON
from mmm4rec.tables import TABLES as MODEL_TABLES
from pipelines.assets import core, features, models, raw, reports  # noqa: F401 - declares their steps
from pipelines.data_folder.folder import CATALOGUE, REPORT, DataFolder
from pipelines.planner.columns import columns
from pipelines.planner.step import DECLARED, Apart, Job, Ref, step
from warehouse.artifacts.artifact import Artifact, digest_of
from warehouse.artifacts.contract import ArtifactStore
from warehouse.artifacts.history import Period
from warehouse.artifacts.store import ALL
from warehouse.tables import TABLES as CORE_TABLES

if TYPE_CHECKING:
    from warehouse.catalogue.build import CatalogueSummary

_EVERYTHING = tuple(key for key in DECLARED if key.split("/")[0] in ("raw", "core", "features", "models", "reports"))
"""The keys of all steps that make tables: the steps of the modules imported here."""
SHOWN = (*_EVERYTHING, COMPARISON)
"""In addition, the comparisons that people have run. Nothing is built from them."""


@dataclass(frozen=True)
class CatalogueOf:
    """The folder of the files that the views name by absolute paths, the metrics with their own column, and the period
    in which each version was current.

    A folder that was moved or copied gets a new catalogue. So does a folder in which another version was current in the
    meantime.
    """

    folder: str
    metrics: tuple[str, ...]
    history: str
    """A hash of the periods."""
    periods: Apart[tuple[Period, ...]]


def catalogue_of(data_folder: DataFolder, store: ArtifactStore) -> CatalogueOf:
    """The parameters of the catalogue of a data folder whose artifacts are in this store."""
    periods = tuple(period for period in store.periods() if period.key in SHOWN)
    moves = [(period.key, period.domain, period.version, period.since, period.until) for period in periods]
    return CatalogueOf(
        str(data_folder.path.absolute()),
        tuple(metric.label for metric in shown()),
        digest_of(moves),
        periods,
    )


@step(
    "warehouse/catalogue",
    "warehouse",
    upstream=_EVERYTHING,
    refs=lambda data_folder, domain: [(a.key, a.domain) for a in data_folder.store.all_current() if a.key in SHOWN],
    parameters=lambda data_folder, domain: catalogue_of(data_folder, data_folder.store),
    per_domain=False,
    collects=True,
    exposed=CATALOGUE,
    identity="recipe",
    kinds=["duckdb"],
    pool="catalogue",
)
def catalogue(job: Job[CatalogueOf]) -> Any:
    """One DuckDB file for analysts: one view per table over all domains, comments, statistics, metrics and lineage."""
    return write_catalogue(job.inputs, job.parameters, job.out)


def write_catalogue(
    artifacts: Sequence[Artifact], of: CatalogueOf, out: Path, apart: Sequence[Artifact] = ()
) -> "CatalogueSummary":
    """Write the catalogue of these artifacts into the folder `out`. It shows only the lineage of those `apart`."""
    from warehouse.catalogue.build import build_catalogue

    return build_catalogue(
        artifacts,
        out / CATALOGUE,
        comments={**CORE_TABLES, **FEATURE_TABLES, **MODEL_TABLES},
        metrics=of.metrics,
        periods=of.periods,
        columns=columns,
        apart=apart,
    )


@dataclass(frozen=True)
class ReportOf:
    """The data folder, which contains the files of the catalogue."""

    data: Apart[Path]


def _pictures(data_folder: DataFolder) -> list[Ref]:
    return [(a.key, a.domain) for a in data_folder.store.all_current() if a.key == "features/item_images"]


@step(
    "warehouse/report",
    "pipelines",
    upstream=["warehouse/catalogue", "features/item_images"],
    refs=lambda data_folder, domain: [("warehouse/catalogue", ALL), *_pictures(data_folder)],
    parameters=lambda data_folder, domain: ReportOf(data_folder.path),
    per_domain=False,
    collects=True,
    exposed=REPORT,
    identity="recipe",
    kinds=["html"],
    pool="catalogue",
)
def report(job: Job[ReportOf]) -> Any:
    """A page for people: results, learning curves, and pictures of what some users bought and were recommended."""
    from features.lookup.search import find_pictures
    from pipelines.reports.report import build_report

    shards = {a.domain: a for a in job.inputs if a.key == "features/item_images"}
    catalogue = job.input("warehouse/catalogue")
    return build_report(
        catalogue.file(CATALOGUE),
        job.parameters.data,
        lambda domain, ids: find_pictures(shards[domain].file, ids) if domain in shards else {},
        job.out / REPORT,
        catalogue.manifest.created,
    )
