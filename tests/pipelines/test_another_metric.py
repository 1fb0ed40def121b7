"""A metric is declared once: one more in METRICS is in tables, checks, views, pages, charts and settings."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long

DECLARED = """
import json, sys
from pathlib import Path
from mmm4rec import metrics

metrics.METRICS += (
    metrics.UserMetric("Half", "share of users whose label is in the better half of the top k",
                       lambda ranks, k: ranks <= k / 2),
    metrics.ListMetric("once", "an example", lambda users: 0.25, grows_with_k=False),
)

from tests.pipelines.another_metric import asked
print(json.dumps(asked(Path(sys.argv[1]))))
"""
"""All that somebody writes for two metrics more; before anything else is imported."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process knows that began with two metrics more."""
    done = subprocess.run(
        [sys.executable, "-c", DECLARED, str(tmp_path_factory.mktemp("more"))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_it_is_measured(found: dict[str, Any]) -> None:
    assert {"half_10", "half_20", "half_50", "once_10", "once_20", "once_50"} <= found["values"].keys()
    assert found["values"]["half_20"] == found["values"]["hr_10"]
    assert found["errors"]["half_20"] == found["errors"]["hr_10"]
    assert "once_10" not in found["errors"]


def test_it_stands_in_the_tables(found: dict[str, Any]) -> None:
    assert {"half_10", "once_50"} <= set(found["history"])
    assert {"Half", "once"} <= set(found["rows"])
    assert "Half" in found["breakdown"]
    assert "once" not in found["breakdown"]
    assert found["summary"]["half_10"] == {"popularity": found["values"]["half_10"]}
    assert all("Half: share of users whose label is in the better half" in text for text in found["comments"])


def test_it_is_checked(found: dict[str, Any]) -> None:
    assert found["check"]
    assert not any(found["check"].values())


def test_it_stands_in_the_view_and_on_the_page(found: dict[str, Any]) -> None:
    assert found["results"]["popularity_half"] == found["values"]["half_10"]
    assert found["results"]["popularity_once"] == 0.25
    assert found["results"]["finetuned_half"] is None
    assert '<th scope="col">Half@10</th>' in found["page"]
    assert f"{found['values']['half_10']:.4f}" in found["page"]


def test_it_is_documented_drawn_and_a_setting(found: dict[str, Any]) -> None:
    assert "| `finetuned_once` | DOUBLE | null | once@10 of the pre-trained model" in found["dictionary"]
    assert "Half@10" in found["chart"]
    assert found["criterion"] == "Half@20"
