"""The pages that open without a server: closed to other servers and to scripts, whatever titles say."""

import os
import shutil
from pathlib import Path

import jinja2
import pytest
from playwright.sync_api import sync_playwright

from pipelines.compare import LABELS
from pipelines.reports import report
from pipelines.reports.charts import learning_curves, svg
from tests.pages import breaches

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
    section = {"name": "Toys", "counts": (1, 1, 1), "accuracy": [], "costs": costs, "published": published}
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
