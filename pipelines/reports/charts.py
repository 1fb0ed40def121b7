"""The charts of the report and of Dagster's metadata, drawn from rows of the catalogue's queries.

Nothing is computed here except the mean of curves. The same rows give the same bytes.
"""

import html
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image

from mmm4rec.metrics import SHOWN_AT, Metric, of_lists, of_users

Row = Mapping[str, Any]

MODELS = {
    "scratch": "MMM4Rec from scratch",
    "finetuned": "MMM4Rec, fine-tuned",
    "pretrained": "MMM4Rec, pre-trained only",
}
"""The names of MMM4Rec's models for people, on every page."""
_COLOURS = 64
"""Colours of a picture: enough for lines and text, with a third of the bytes."""
_styled = mpl.rc_context(
    {
        "font.size": 9,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
    }
)


@_styled
def learning_curves(title: str, rows: Sequence[Row]) -> Figure:
    """Validation NDCG@10 by epoch, from scratch and fine-tuned. Rows: `model`, `epoch`, `ndcg_10`."""
    figure, (axes,) = _panels(1)
    _count(axes)
    for model, label in MODELS.items():
        _line(axes, [row for row in rows if row["model"] == model], "epoch", "ndcg_10", label)
    axes.set(title=title, xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    axes.legend()
    return figure


@_styled
def training(rows: Sequence[Row], best_epoch: int) -> Figure:
    """Loss and validation metrics by epoch. Rows as in a model's `history`, with nulls where nothing was measured.

    Metrics of lists have their own panel: in a common panel, the metrics of users would look flat.
    """
    figure, panels = _panels(3, width=3.5)  # the width of a dialog in the UI
    drawn: Sequence[tuple[str, Mapping[str, str | None]]] = (
        ("training loss", {"loss": None}),
        ("validation, mean over users", _shown(of_users())),
        ("validation, lists of all users", _shown(of_lists())),
    )
    for axes, (title, lines) in zip(panels, drawn, strict=True):
        _count(axes)
        for column, label in lines.items():
            _line(axes, [row for row in rows if row.get(column) is not None], "epoch", column, label)
        kept = f"weights kept: epoch {best_epoch}" if axes is panels[0] else None
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=kept)
        axes.set(title=title, xlabel="epoch")
        if axes.get_legend_handles_labels()[0]:  # empty for a model that is never validated
            axes.legend()
    return figure


@_styled
def lengths(rows: Sequence[Row]) -> Figure:
    """Users by sequence length, and the share of users up to each length. Rows of `length_distribution`."""
    figure, (axes, cumulated) = _panels(2)
    _count(axes)
    _count(cumulated)
    axes.bar([row["length"] for row in rows], [row["users"] for row in rows], width=1.0)
    axes.set(title="users by sequence length", xlabel="interactions", ylabel="users")
    _line(cumulated, rows, "length", "share_at_most")
    cumulated.set(title="users up to each length", xlabel="interactions", ylabel="share of users", ylim=(0, 1))
    # A single user with a thousand interactions would squeeze all the others into a line at the edge.
    if rows and rows[-1]["length"] > 100:
        axes.set(yscale="log")
        cumulated.set(xscale="log")
    return figure


@_styled
def popularity(rows: Sequence[Row]) -> Figure:
    """The long tail and the Lorenz curve of the items. Rows of `popularity_distribution`."""
    figure, (tail, lorenz) = _panels(2)
    _line(tail, rows, "items_at_least", "interactions")
    tail.set(title="long tail", xlabel="rank of the item", ylabel="interactions", xscale="log", yscale="log")
    for axis in (tail.xaxis, tail.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    _line(lorenz, rows, "share_of_items", "share_of_interactions")
    lorenz.plot((0, 1), (0, 1), color="0.6", linestyle=":", label="all items equally popular")
    lorenz.set(title="concentration", xlabel="share of items, most popular first", ylabel="share of interactions")
    lorenz.legend()
    return figure


@_styled
def ratings(rows: Sequence[Row]) -> Figure:
    """The number of ratings and their mean by month. Rows: `month`, `ratings`, `mean_stars`."""
    figure, (counts, stars) = _panels(2)
    counts.fill_between([row["month"] for row in rows], [row["ratings"] for row in rows], step="mid")
    counts.set(title="ratings per month", ylim=(0, None))
    _line(stars, rows, "month", "mean_stars")
    stars.set(title="mean stars", ylim=(1, 5))
    for axes in (counts, stars):
        locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    return figure


@_styled
def words(rows: Sequence[Row]) -> Figure:
    """Items by the number of words in their text. Rows: `words` (the lower end of a class) and `items`."""
    figure, (axes,) = _panels(1)
    width = min((row["width"] for row in rows), default=1)
    axes.bar([row["words"] for row in rows], [row["items"] for row in rows], width=width, align="edge")
    axes.set(title="items by number of words in their text", xlabel="words", ylabel="items")
    return figure


@_styled
def convergence(title: str, rows: Sequence[Row]) -> dict[str, Figure]:
    """Validation NDCG@10 of every training against its cost: a figure each by optimiser steps, examples, seconds.

    Rows: `label`, `seed`, `ndcg_10` and those three. A thin line is one training. The thick line is the mean of the
    trainings of a label, epoch by epoch, until the first of them stops. `legend` says which colour is which label.
    """
    figures = {}
    for column in ("optimiser_steps", "examples", "seconds"):
        figures[column], (axes,) = _panels(1, width=4.2)
        for label, colour in legend(rows).items():
            mine = [row for row in rows if row["label"] == label and None not in (row["ndcg_10"], row[column])]
            curves = [[row for row in mine if row["seed"] == seed] for seed in sorted({row["seed"] for row in mine})]
            for curve in curves:
                points = ([row[name] for row in curve] for name in (column, "ndcg_10"))
                axes.plot(*points, color=colour, linewidth=0.6, alpha=0.35)
            epochs = list(zip(*curves, strict=False))
            points = ([mean(row[name] for row in epoch) for epoch in epochs] for name in (column, "ndcg_10"))
            axes.plot(*points, color=colour, label=label, linewidth=1.8)
        axes.set(title=title, xlabel=column.replace("_", " "), ylabel="validation NDCG@10", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5))  # few ticks, because the numbers are long
    return figures


def legend(rows: Sequence[Row]) -> dict[str, str]:
    """The colour of each label in `convergence`, such as #1f77b4."""
    labels = dict.fromkeys(row["label"] for row in rows)
    return {label: to_hex(f"C{number % 10}") for number, label in enumerate(labels)}


@_styled
def shares(title: str, rows: Sequence[Row]) -> Figure:
    """Test NDCG@10 by the share of training users. Rows: `label`, `percent`, `value`, `standard_error`."""
    figure, (axes,) = _panels(1)
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = sorted((row for row in rows if row["label"] == label), key=lambda row: row["percent"])
        x, y, error = ([row[name] for row in mine] for name in ("percent", "value", "standard_error"))
        axes.errorbar(x, y, error, label=label, marker="o", markersize=4, capsize=2)
    axes.set(
        title=title, xlabel="% of users that the model learns from", ylabel="test NDCG@10", xscale="log", ylim=(0, None)
    )
    axes.set_xticks(sorted({row["percent"] for row in rows}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend()
    return figure


@_styled
def svg(figure: Figure, salt: str) -> str:
    """The figure as an element for a page, in the colours of the page. `salt` makes the ids of several figures unique.

    A text alternative describes it for people who cannot see it.
    """
    text = io.StringIO()
    # Fixed ids and no date, so that the same curves give the same bytes.
    with mpl.rc_context({"svg.hashsalt": salt}), _quietly():
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()[text.getvalue().index("<svg") :]
    # Letters have no colour of their own and inherit it; black and white are replaced by the colours of the page.
    drawn = drawn.replace("#000000", "currentColor").replace("#ffffff", "none")
    about = html.escape(_described(figure))
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{about}" fill="currentColor" ', 1)


@_styled
def png(figure: Figure) -> bytes:
    """The figure as a small picture."""
    drawn, small = io.BytesIO(), io.BytesIO()
    with _quietly():
        figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, "PNG", optimize=True)
    return small.getvalue()


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence matplotlib's messages while it draws. Titles in scripts that its font lacks are expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _described(figure: Figure) -> str:
    """A description of a chart in words: for each panel its title, axes and lines."""
    parts = []
    for axes in figure.axes:
        title, across, up = axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
        labels = axes.get_legend_handles_labels()[1]
        what = f"{up} by {across}" if up and across else up or across
        parts.append(": ".join(filter(None, [title, what, ", ".join(labels)])))
    return "; ".join(parts)


def _panels(number: int, width: float | None = None) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side, each `width` inches wide; by default, a single panel is a little wider."""
    width, height = width or (5.2 if number == 1 else 4.2), 3.0
    figure = Figure(figsize=(width * number, height))
    # Positions set by hand, in inches: matplotlib's layouts draw everything twice to get the same result.
    left, right, bottom, top = 0.88, 0.16, 0.48, 0.3
    figure.subplots_adjust(
        left=left / (width * number),
        right=1 - right / (width * number),
        bottom=bottom / height,
        top=1 - top / height,
        wspace=(left + right) / (width - left - right),
    )
    return figure, list(figure.subplots(1, number, squeeze=False)[0])


def _shown(metrics: Iterable[Metric]) -> dict[str, str | None]:
    """Titles by column, for the metrics that are shown."""
    return {metric.column(SHOWN_AT): metric.title(SHOWN_AT) for metric in metrics if SHOWN_AT in metric.cutoffs}


def _count(axes: Axes) -> None:
    """Allow only whole numbers as ticks of the x axis, because it shows counts."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _line(axes: Axes, rows: Sequence[Row], x: str, y: str, label: str | None = None) -> None:
    """A line. If there are few points, each gets a mark."""
    if rows:
        marker = "o" if len(rows) < 3 else None
        points = ([row[column] for row in rows] for column in (x, y))
        axes.plot(*points, label=label, marker=marker, markersize=4)
