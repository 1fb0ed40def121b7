"""Exhibits: what Dagster's UI shows of an artifact: first rows, distributions, curves, pictures.

They are made from published files, after publishing. A failure here does not affect the artifact: the metadata, the log
of the run and `mmm4rec run` show which exhibit is missing and why. SQL counts the figures in a catalogue of this
artifact and of related ones, `pipelines.reports.charts` draws them, and `features.lookup.sheets` lays them out.
Exhibits are not part of any recipe.
"""

import base64
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from features.lookup.search import find_pictures
from features.lookup.sheets import contact_sheet
from features.pictures.item_images import STATUSES
from mmm4rec.metrics import CRITERION, SHOWN_AT, UserMetric, shown
from mmm4rec.printable import plain, visible
from pipelines.data_folder.folder import CATALOGUE, REPORT, DataFolder
from pipelines.reports import charts
from pipelines.reports.markdown import code
from warehouse.artifacts.store import Artifact
from warehouse.catalogue.build import build_catalogue
from warehouse.catalogue.query import Session

_SQL = Path(__file__).parent / "sql"
_ROWS, _CELL, _ITEMS = 5, 60, 4
"""Rows of a preview, characters of a cell, and numbers of a list in a cell."""
_PICTURES, _USERS, _BOUGHT = 18, 3, 5
"""Pictures of a sheet; users of the shelves; purchases, and as many recommendations, of each user."""
_TILE, _SMALL_TILE = 92, 80
"""Side of a picture in pixels, in a sheet and on a shelf."""
_SHEET_BYTES = 40_000
"""Most bytes of all sheets of an exhibit (base64 adds a third). The event log keeps each, and the UI loads it."""


@dataclass
class Subject:
    """An artifact to show. Queries go to a catalogue of it and of the artifacts `beside` it in its domain."""

    data_folder: DataFolder
    artifact: Artifact
    beside: tuple[str, ...]
    closing: ExitStack

    def ask(self, name: str, **bound: Any) -> list[dict[str, Any]]:
        """The rows of ``sql/<name>.sql``."""
        return self.table(name, **bound).to_pylist()  # type: ignore[no-any-return]

    def table(self, name: str, **bound: Any) -> pa.Table:
        """The result of ``sql/<name>.sql``."""
        return self._session.ask((_SQL / f"{name}.sql").read_text(encoding="utf-8"), bound)

    def history(self) -> list[dict[str, Any]]:
        """The epochs of a model."""
        rows: list[dict[str, Any]] = pq.ParquetFile(self.artifact.file("history.parquet")).read().to_pylist()
        return rows

    @property
    def pictures(self) -> Artifact | None:
        """The pictures of the domain's items."""
        return self.data_folder.store.current("features/item_images", self.artifact.domain)

    @cached_property
    def _session(self) -> Session:
        catalogue = self.artifact.file(CATALOGUE)
        if not catalogue.exists():
            others = [self.data_folder.store.require(key, self.artifact.domain) for key in self.beside]
            catalogue = Path(self.closing.enter_context(tempfile.TemporaryDirectory())) / CATALOGUE
            build_catalogue([self.artifact, *others], catalogue)
        return self.closing.enter_context(Session(catalogue, root=self.data_folder.path))


Exhibit = Callable[[Subject], Any]
"""Makes a value of Dagster's metadata, or None if there is nothing to show."""


def exhibits(data_folder: DataFolder, artifact: Artifact) -> tuple[dict[str, Any], dict[str, str]]:
    """The exhibits as metadata by name, and the reasons for those that could not be made."""
    shown: dict[str, Any] = {}
    failed: dict[str, str] = {}
    beside, wanted = _EXHIBITS.get(artifact.key, ((), {}))
    with ExitStack() as closing:
        subject = Subject(data_folder, artifact, beside, closing)
        for name, make in wanted.items():
            try:
                value = make(subject)
            except Exception as error:  # the artifact is complete and its step has succeeded in any case
                failed[name] = visible(f"{type(error).__name__}: {error}")
            else:
                if value is not None:
                    shown[name] = value
    return shown, failed


def _preview(subject: Subject) -> Any:
    """The first rows of the main table."""
    file = pq.ParquetFile(subject.artifact.main)
    first = next(file.iter_batches(_ROWS), None)
    return _table(first.to_pylist() if first else [], file.schema_arrow.names)


def _set_aside(stem: str) -> Exhibit:
    """The rows that were left out, counted by reason."""

    def set_aside(subject: Subject) -> Any:
        reasons = pq.ParquetFile(subject.artifact.file(f"{stem}.parquet")).read(["reason"])["reason"].value_counts()
        rows = [{"reason": row["values"], "rows": row["counts"]} for row in reasons.to_pylist()]
        return _table(sorted(rows, key=lambda row: -row["rows"]), ["reason", "rows"]) if rows else None

    return set_aside


def _rows(name: str, needs: str = "", **bound: Any) -> Exhibit:
    """The result of a query as a table; None if it has no rows, or if the catalogue lacks the view that it `needs`."""

    def rows(subject: Subject) -> Any:
        if needs and not subject.ask("exhibit_has", view=needs):
            return None
        answer = subject.table(name, **bound)
        return _table(answer.to_pylist(), answer.column_names) if answer.num_rows else None

    return rows


def _chart(name: str, draw: Callable[[list[dict[str, Any]]], Figure]) -> Exhibit:
    """The result of a query as a figure; None if it has no rows."""

    def chart(subject: Subject) -> Any:
        rows = subject.ask(name)
        return _markdown(_image(charts.png(draw(rows)), name)) if rows else None

    return chart


def _learning_curves(subject: Subject) -> Any:
    return _chart("report_curves", lambda rows: charts.learning_curves(subject.artifact.domain, rows))(subject)


def _metrics(subject: Subject) -> Any:
    """One row per model, best first: means over users with their standard errors."""
    models: dict[str, dict[str, Any]] = {}
    for row in subject.ask("exhibit_metrics"):
        models.setdefault(row["model"], {"users": row["users"]})[row["metric"]] = row
    rows = []
    for model, of in models.items():
        line: dict[str, Any] = {"model": model}
        for metric in shown():
            line[metric.title(SHOWN_AT)] = round(of[metric.label]["value"], 4)
            if isinstance(metric, UserMetric):
                line[f"{metric.label} ±"] = round(of[metric.label]["standard_error"], 4)
        rows.append(line | {"users": of["users"]})
    return _table(sorted(rows, key=lambda row: -row[CRITERION]), list(rows[0])) if rows else None


def _training(subject: Subject) -> Any:
    best = subject.artifact.manifest.summary["best_epoch"]
    return _markdown(_image(charts.png(charts.training(subject.history(), best)), "training"))


def _statuses(subject: Subject) -> Any:
    rows = [{**row, "meaning": STATUSES[row["status"]]} for row in subject.ask("exhibit_statuses")]
    return _table(rows, list(rows[0])) if rows else None


def _sheet(subject: Subject) -> Any:
    """A sheet with some of the items."""
    titles = {row["item_id"]: row["title"] for row in subject.ask("exhibit_pictures", items=_PICTURES)}
    found = find_pictures(subject.artifact.file, list(titles))
    samples = [(title, found.get(item_id)) for item_id, title in titles.items()]
    return _markdown(_image(contact_sheet(samples, 6, _TILE, _SHEET_BYTES), "items")) if samples else None


def _shelves(subject: Subject) -> Any:
    """For some users, what they bought last and what is recommended to them."""
    rows = subject.ask("report_shelves", users=_USERS, bought=_BOUGHT, recommended=_BOUGHT)
    ids = {item["item_id"] for row in rows for item in (*row["bought"], *row["next"])}
    pictures = subject.pictures
    found = find_pictures(pictures.file, sorted(ids)) if pictures else {}

    def shelf(items: list[dict[str, str]], name: str) -> str:
        samples = [(item["title"], found.get(item["item_id"])) for item in items]
        return _image(contact_sheet(samples, _BOUGHT, _SMALL_TILE, _SHEET_BYTES // (2 * _USERS)), name)

    parts = [
        f"User {code(row['user'])} bought\n\n{shelf(row['bought'], 'bought')}\n\n"
        f"and gets these recommendations\n\n{shelf(row['next'], 'recommended')}"
        for row in rows
    ]
    return _markdown("\n\n---\n\n".join(parts)) if parts else None


def _page(subject: Subject) -> Any:
    return dg.MetadataValue.url(subject.artifact.file(REPORT).as_uri())


def _markdown(text: str) -> Any:
    return dg.MetadataValue.md(text)


def _image(content: bytes, name: str) -> str:
    """A picture embedded in Markdown, because the UI cannot show files of the data folder."""
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"![{name}](data:image/{kind};base64,{base64.b64encode(content).decode()})"


def _table(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    """Rows in a form that Dagster's UI shows as plain text and never interprets as markup."""
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _cell(row[name]) for name in columns}) for row in rows],
        dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )


def _cell(value: Any) -> str | int | float | bool:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        more = f", … ({len(value)})" if len(value) > _ITEMS else ""
        return ", ".join(str(_cell(part)) for part in value[:_ITEMS]) + more
    text = "" if value is None else visible(value if isinstance(value, str) else json.dumps(plain(value), default=str))
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


_PREVIEW: Mapping[str, Exhibit] = {"preview": _preview}
_RAW: Mapping[str, Exhibit] = {**_PREVIEW, "set_aside": _set_aside("quarantine")}
_CORE: Mapping[str, Exhibit] = {**_PREVIEW, "set_aside": _set_aside("rejected")}
_MODEL: tuple[tuple[str, ...], Mapping[str, Exhibit]] = ((), {"training_plot": _training})

_EXHIBITS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Exhibit]]] = {
    "raw/ratings": ((), _RAW),
    "raw/metadata": ((), _RAW),
    "core/items": ((), _CORE),
    "core/interactions": ((), {**_CORE, "ratings_plot": _chart("exhibit_ratings", charts.ratings)}),
    "core/sequences": (
        (),
        {
            **_PREVIEW,
            "length_plot": _chart("exhibit_lengths", charts.lengths),
            "popularity_plot": _chart("exhibit_popularity", charts.popularity),
        },
    ),
    "features/item_text": ((), {**_PREVIEW, "words_plot": _chart("exhibit_words", charts.words)}),
    "features/item_images": (("core/items",), {**_PREVIEW, "statuses_table": _statuses, "sheet": _sheet}),
    "features/text_embeddings": ((), _PREVIEW),
    "features/image_embeddings": ((), _PREVIEW),
    "models/pretrained": _MODEL,
    "models/scratch": _MODEL,
    "models/finetuned": _MODEL,
    "reports/metrics": ((), {"results": _metrics, "learning_curves": _learning_curves}),
    "reports/recommendations": (("core/sequences", "core/items"), {**_PREVIEW, "shelves": _shelves}),
    "warehouse/catalogue": (
        (),
        {"domains_table": _rows("exhibit_domains", "domains"), "results": _rows("exhibit_results", "results")},
    ),
    "warehouse/report": ((), {"page": _page}),
}
"""The exhibits of each artifact: the keys of the artifacts that its catalogue includes, and the exhibits by name."""
