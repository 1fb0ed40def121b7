"""The pages that open without a server: closed to other servers and to scripts, whatever titles say; for every eye."""

import os
import re
import shutil
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import jinja2
import pytest
from playwright.sync_api import sync_playwright

from pipelines.compare import LABELS
from pipelines.data_folder.folder import DataFolder
from pipelines.reports import report
from pipelines.reports.charts import convergence, learning_curves, png, ratings, svg
from tests.conftest import Cli
from tests.pages import breaches
from warehouse.artifacts.store import ALL

EVIL = '<script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(1)>" onerror="x'


@pytest.mark.parametrize("name", ["report.html", "comparison.html"])
def test_a_template_keeps_to_its_policy(name: str) -> None:
    text = (Path(report.__file__).parent / "templates" / name).read_text()
    assert breaches(text[text.index("<!doctype") :]) == []
    assert "|safe" not in text.replace("{{ curve|safe }}", "").replace("{{ section.sweep|safe }}", ""), "charts alone"


def test_the_report_escapes_what_comes_from_outside() -> None:
    item = {"title": EVIL, "picture": None}
    shelf = {"domain": EVIL, "user": EVIL, "bought": [item], "next": [item | {"picture": f"data:image/{EVIL}"}]}
    curve = svg(learning_curves("Toys", [{"model": "scratch", "epoch": 1, "ndcg_10": 0.1}]), "Toys")
    page = report.page([], [curve], [shelf])
    assert page.count("alert(1)") > 4
    assert breaches(page) == []


@pytest.mark.parametrize(
    "hostile", ["<script>1</script>", "<img src=//a.example/x>", "<a href='javascript:1'>", "<p onclick=x>"]
)
def test_a_breach_is_found(hostile: str) -> None:
    assert breaches(report.page([], [hostile], []))
    assert breaches(hostile) == ["policies: []"]


def test_every_template_escapes_by_itself() -> None:
    environment = report.templates()
    assert isinstance(environment, jinja2.Environment)
    assert environment.from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"


POINTS: Sequence[dict[str, object]] = [{"model": "scratch", "epoch": epoch, "ndcg_10": epoch / 10} for epoch in (1, 2)]


def test_a_chart_takes_the_colours_of_its_page_and_says_what_it_shows() -> None:
    chart = svg(learning_curves(EVIL, POINTS), "Toys")
    assert not re.search("#000000|#ffffff", chart)
    assert "stroke: currentColor" in chart
    opening = chart[: chart.index(">", chart.index("aria-label")) + 1]
    assert 'role="img"' in opening
    assert 'fill="currentColor"' in opening
    assert "validation NDCG@10 by epoch: MMM4Rec from scratch" in re.sub(r"\s+", " ", opening)
    assert "&lt;script&gt;" in opening
    assert breaches(report.page([], [chart], [])) == []


def test_what_matplotlib_says_reaches_nobody() -> None:
    """A title in a script that its font lacks, and years of ratings on one day."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = learning_curves("おもちゃ \U0001f9f8", POINTS)
        assert svg(figure, "Toys")
        assert png(figure)
        assert png(ratings([{"month": date(1970, 1, 1), "ratings": 1, "mean_stars": 5.0}]))


def _row(domain: str) -> dict[str, object]:
    figures = {
        report.figure(model, metric.label): 0.5 for model in ("popularity", "scratch") for metric in report.shown()
    }
    absent = {
        report.figure(model, metric.label): None for model in ("pretrained", "finetuned") for metric in report.shown()
    }
    counts = {"users": 1000, "items": 5, "interactions": 7, "scratch_epochs": 2, "finetuned_epochs": None}
    return {"domain": domain, "role": "target", "recommends": "scratch"} | figures | absent | counts


def test_the_report_says_when_from_what_and_how_sure() -> None:
    data = [
        {
            "domain": "Toys",
            "ratings": 12345,
            "first_day": date(2014, 1, 7),
            "last_day": date(2018, 12, 24),
            "files": [{"name": "Toys.csv", "sha256": "ab" * 32}],
        }
    ]
    errors = {("Toys", "scratch", "NDCG"): 0.0123}
    page = report.page([_row("Toys")], [], [], errors, data, "2026-11-27T13:26:05+00:00")
    assert "built on 2026-11-27 13:26 UTC" in page
    for told in ("12,345", "2014-01-07", "2018-12-24", "Toys.csv", "abababababab"):
        assert told in page
    assert page.count("± 0.0123") == 1
    assert breaches(page) == []


def test_the_report_of_a_run_has_the_time_of_its_catalogue(tiny: Cli) -> None:
    page = (tiny.data / "report.html").read_text()
    built = DataFolder(tiny.data).store.require("warehouse/catalogue", ALL).manifest.created
    assert f"built on {built[:16].replace('T', ' ')} UTC" in page
    assert page.count("±") > 10
    assert "Sample_Toys.csv" in page


@pytest.mark.parametrize("name", ["report.html", "comparison.html"])
def test_every_heading_of_a_table_says_of_what(name: str) -> None:
    text = (Path(report.__file__).parent / "templates" / name).read_text()
    headings = re.findall(r"<th\b[^>]*>", text)
    assert len(headings) > 10
    assert [heading for heading in headings if "scope=" not in heading] == []
    bodies = re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert bodies
    assert all('scope="row"' in body for body in bodies)


@pytest.mark.parametrize("name", ["report.html", "comparison.html"])
def test_no_chart_lies_on_a_white_ground(name: str) -> None:
    text = (Path(report.__file__).parent / "templates" / name).read_text()
    assert "color-scheme: light dark" in text
    assert "#fff" not in re.search(r"svg \{[^}]*\}", text)[0]  # type: ignore[index]


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_widest_table_of_costs_fits_a_screen_of_1280_pixels(tmp_path: Path) -> None:
    costs = [
        {
            "label": label, "untrained": True, "parameters": 123_456_789, "batch": 8_192, "learning_rate": 0.00025,
            "examples_per_second": 123_456.0, "best_epoch": 100.0, "optimiser_steps": 123_456.0,
            "optimiser_steps_to_best": 123_456.0, "optimiser_steps_to_95": 123_456.0, "seconds_to_95": 12_345.6,
            "seconds": 123_456.7, "peak_bytes": 81_920 << 20, "device": "8 x cuda",
        }
        for label in LABELS.values()
    ]  # fmt: skip
    published = [{"label": label, "steps_to_best": 123_456} for label in LABELS.values()]
    origin = {"made": "2026-01-01 00:00", "days": {}, "files": []}
    section = {
        "name": "Toys",
        "counts": (1, 1, 1),
        "origin": origin,
        "accuracy": [],
        "costs": costs,
        "published": published,
    }
    asked = {"seeds": 1, "finetuning": {"epochs": 1}, "pretrained": True}
    page = report.templates().get_template("comparison.html").render(sections=[section], asked=asked, metrics=[])
    (tmp_path / "comparison.html").write_text(page)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none to offer
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.goto((tmp_path / "comparison.html").as_uri())
        table = shown.locator("table.costs")
        assert table.locator("tbody tr").count() == 2 * len(LABELS)
        wide, room = table.evaluate("table => [table.scrollWidth, table.parentElement.clientWidth]")
        shown.screenshot(path=tmp_path / "shown.png", full_page=True)
        browser.close()
    assert 0 < wide <= room <= 1280


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_report_fits_a_phone_and_takes_its_colours(tmp_path: Path) -> None:
    bought, following = ([{"title": f"{what} item", "picture": None}] * 5 for what in ("a bought", "the next"))
    shelf = {"domain": "Toys", "user": "U1", "bought": bought, "next": following}
    figures = convergence("Toys", [{**row, "label": "SASRec", "seed": 1, "optimiser_steps": 5, "examples": 5,
                                    "seconds": 1.0} for row in POINTS])  # fmt: skip
    charts = [svg(figure, by) for by, figure in figures.items()]
    (tmp_path / "report.html").write_text(report.page([_row("Toys")], charts, [shelf]))
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme="dark")
        page.goto((tmp_path / "report.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        metric = page.locator("tbody td").first.bounding_box()
        page.locator(".wide").first.evaluate("table => table.scrollLeft = 100")
        model = page.locator("tbody th.model").first.bounding_box()
        places = [place.bounding_box() for place in page.locator(".curves svg").all()]
        items = page.locator("figure")
        last, first = items.nth(4).bounding_box(), items.nth(5).bounding_box()
        ground = page.locator(".none").first.evaluate("tile => getComputedStyle(tile).backgroundColor")
        browser.close()
    assert wide == 400
    assert metric
    assert metric["x"] + metric["width"] < 400, "a figure is seen without scrolling"
    assert model
    assert model["x"] >= 0, "whose it is stays in place"
    assert len({place["y"] for place in places if place}) == 3, "one below the other"
    assert last
    assert first
    assert first["y"] > last["y"], "recommendations begin a row of their own"
    assert ground == "rgba(0, 0, 0, 0)"
