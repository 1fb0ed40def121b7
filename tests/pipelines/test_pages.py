"""The pages that open without a server: closed to other servers and to scripts, whatever titles say."""

from pathlib import Path

import jinja2
import pytest

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
