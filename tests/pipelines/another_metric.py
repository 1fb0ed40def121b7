"""What knows of the metrics, asked in a process where more of them are declared (`test_another_metric`)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmm4rec import metrics, reports, tables
from mmm4rec.baselines import popularity
from mmm4rec.config import TrainConfig
from mmm4rec.data.domain import DomainData, Features
from mmm4rec.reports import TrainingOutcome, write_metrics
from pipelines.dictionary import dictionary
from pipelines.planner.blocking import CHECKS
from pipelines.reports.charts import training
from pipelines.reports.report import page, results_table
from tests.warehouse.work import publish_domain, write_raw
from warehouse.artifacts.store import Recipe, Store
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import query


def shop() -> DomainData:
    """Some users who bought some of 30 items."""
    random = torch.Generator().manual_seed(0)
    users, items = 12, 30
    missing = Features(torch.zeros(items + 1, 1), torch.zeros(items + 1, dtype=torch.bool))
    return DomainData(
        name="Mugs",
        user_ids=[f"u{user:02}" for user in range(users)],
        item_ids=[f"i{item:02}" for item in range(items)],
        offsets=torch.arange(users + 1) * 6,
        items=torch.randint(1, items + 1, (users * 6,), generator=random),
        times=torch.arange(users * 6),
        training=torch.full((users,), 4),
        validation=torch.ones(users, dtype=torch.int64),
        text=missing,
        image=missing,
    )


def asked(folder: Path) -> dict[str, Any]:
    """Popularity is evaluated on a small shop in `folder`, as everything else is; where its metrics are."""
    rankings = {("popularity", split): popularity.rank_labels(shop(), split) for split in reports.SPLITS}
    test = rankings["popularity", "test"].metrics()
    summary = asdict(reports.summary({"popularity": test}))
    counts: dict[str, int] = {}

    def build(out: Path) -> dict[str, Any]:
        write_metrics(rankings, [TrainingOutcome("popularity", 0)], out)
        counts.update(CHECKS["reports/metrics"].count("reports/metrics", out, [], summary, {}))
        return summary

    write_raw(folder / "raw", "Mugs", 0)
    publish_domain(folder / "data", folder / "raw", "Mugs")
    store = Store(folder / "data")
    store.publish(Recipe("reports/metrics", "Mugs", "code", {}, {}, {}), build)
    catalogue = folder / "data" / "warehouse.duckdb"
    labels = [metric.label for metric in metrics.shown()]
    build_catalogue(store.all_current(), catalogue, tables.TABLES, labels)
    comments = query(catalogue, "SELECT comment FROM duckdb_columns() WHERE column_name = 'metric'").to_pylist()
    (results,) = results_table(catalogue)
    history = [{"epoch": 0, "loss": None, "half_10": 0.1}, {"epoch": 1, "loss": 1.0, "half_10": 0.2}]
    return {
        "values": test.values,
        "errors": test.errors,
        "history": tables.TABLES["models/scratch/history"].names,
        "summary": summary,
        "check": counts,
        "rows": query(catalogue, "SELECT DISTINCT metric FROM reports.metrics")["metric"].to_pylist(),
        "breakdown": query(catalogue, "SELECT DISTINCT metric FROM reports.metrics_breakdown")["metric"].to_pylist(),
        "comments": [row["comment"] for row in comments],
        "results": results,
        "page": page([results], [], []),
        "dictionary": dictionary(),
        "criterion": TrainConfig(metric="Half@20").metric,
        "chart": [line.get_label() for axes in training(history, 1).axes for line in axes.lines],
    }
