"""The report: one HTML page that opens without a server, made from the catalogue and the items' pictures."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mmm4rec.metrics import SHOWN_AT, shown
from pipelines.reports.charts import MODELS, learning_curves, svg
from warehouse.catalogue.query import query
from warehouse.catalogue.views import JUDGED, figure
from warehouse.errors import DataError

_HERE = Path(__file__).parent
_USERS, _BOUGHT, _RECOMMENDED = 3, 5, 5


@dataclass(frozen=True)
class Report:
    """The contents of the page."""

    domains: int
    users_shown: int


@dataclass(frozen=True)
class Judged:
    """A model in the results of a domain, with its figures for the shown metrics, in their order."""

    model: str
    label: str
    figures: tuple[float, ...]
    best: tuple[bool, ...]
    """Per metric, whether no other model of the domain is better."""
    errors: tuple[float | None, ...]
    """Standard errors of the figures. None if a metric has none, or if they were not requested."""
    epochs: int | None
    """Epochs until its best weights, if it was trained for this domain."""
    recommends: bool


def build_report(
    catalogue: Path,
    root: Path,
    pictures: Callable[[str, Sequence[str]], Mapping[str, bytes]],
    out: Path,
    built: str,
) -> Report:
    """Write the page to `out`. `root` is the data folder of the catalogue, `built` is when the catalogue was published.

    The page shows that time and not its own, so writing it again gives the same page. `pictures(domain, item_ids)`
    returns the original bytes of the pictures that exist. Titles come from outside, so the template escapes them.
    """
    results = results_table(catalogue, root)
    shelves = _shelves(catalogue, root, pictures)
    errors = {
        (row["domain"], row["model"], row["metric"]): row["standard_error"]
        for row in _ask(catalogue, root, "report_errors")
    }
    text = page(results, _curves(catalogue, root), shelves, errors, _ask(catalogue, root, "report_data"), built)
    out.write_text(text, encoding="utf-8")
    return Report(domains=len(results), users_shown=len(shelves))


def templates() -> jinja2.Environment:
    """The templates of the pages. They escape all values, and their policy lets a browser fetch and run nothing."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True)


def page(
    results: Sequence[Mapping[str, Any]],
    curves: Sequence[str],
    shelves: Sequence[Mapping[str, Any]],
    errors: Mapping[tuple[str, str, str], float] | None = None,
    data: Sequence[Mapping[str, Any]] = (),
    built: str = "",
) -> str:
    """The report over rows of `results_table`, charts as SVG, and shelves.

    Args:
        results: the rows.
        curves: the charts.
        shelves: users with the items that they bought and the items that are recommended to them.
        errors: standard errors by domain, model and metric.
        data: rows of ``sql/report_data.sql``.
        built: when the catalogue was published, ISO 8601 in UTC.
    """
    judgements = [(row, judged(row, errors)) for row in results]
    return (
        templates()
        .get_template("report.html")
        .render(
            results=judgements,
            metrics=shown(),
            titles=titles(),
            curves=curves,
            shelves=shelves,
            data=data,
            built=built[:16].replace("T", " "),
        )
    )


def results_table(catalogue: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """One row per domain, from the catalogue's `results`."""
    views = query(catalogue, "SELECT view_name FROM duckdb_views() WHERE NOT internal", root=root)
    known = views["view_name"].to_pylist()
    if "results" not in known:
        raise DataError(f"{catalogue}: no model has been evaluated yet; `mmm4rec run` does it")
    rows: list[dict[str, Any]] = query(catalogue, "FROM results ORDER BY role, domain", root=root).to_pylist()
    return rows


def titles() -> list[str]:
    """The metrics of `Judged.figures`."""
    return [metric.title(SHOWN_AT) for metric in shown()]


def judged(row: Mapping[str, Any], errors: Mapping[tuple[str, str, str], float] | None = None) -> list[Judged]:
    """The models of a domain in a row of `results_table`, with `errors` by domain, model and metric."""
    columns = {model: [figure(model, metric.label) for metric in shown()] for model in JUDGED}
    of = {model: tuple(row[name] for name in names) for model, names in columns.items() if row[names[0]] is not None}
    best = [
        (max if metric.larger_is_better else min)(value for value in values if value is not None)
        for metric, values in zip(shown(), zip(*of.values(), strict=True), strict=True)
    ]
    return [
        Judged(
            model,
            MODELS.get(model, model),
            figures,
            tuple(value == most for value, most in zip(figures, best, strict=True)),
            tuple((errors or {}).get((row["domain"], model, metric.label)) for metric in shown()),
            row.get(f"{model}_epochs"),
            model == row["recommends"],
        )
        for model, figures in of.items()
    ]


def _shelves(
    catalogue: Path, root: Path, pictures: Callable[[str, Sequence[str]], Mapping[str, bytes]]
) -> list[dict[str, Any]]:
    """Some users of each domain, with titles and pictures of the items that they bought and that are recommended."""
    bound = {"users": _USERS, "bought": _BOUGHT, "recommended": _RECOMMENDED}
    rows = _ask(catalogue, root, "report_shelves", bound)
    for domain in {row["domain"] for row in rows}:
        items = [item for r in rows if r["domain"] == domain for item in (*r["bought"], *r["next"])]
        found = pictures(domain, sorted({item["item_id"] for item in items}))
        for item in items:
            content = found.get(item["item_id"])
            item["picture"] = content and _data_uri(content)
    return rows


def _curves(catalogue: Path, root: Path) -> list[str]:
    """Validation NDCG@10 by epoch, from scratch beside fine-tuned: one inline SVG per target domain."""
    rows = _ask(catalogue, root, "report_curves")
    domains = sorted({row["domain"] for row in rows})
    return [svg(learning_curves(name, [row for row in rows if row["domain"] == name]), name) for name in domains]


def _ask(catalogue: Path, root: Path, name: str, bound: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rows of ``sql/<name>.sql``."""
    sql = (_HERE / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = query(catalogue, sql, bound, root=root).to_pylist()
    return rows


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "gif" if content.startswith(b"GIF8") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
