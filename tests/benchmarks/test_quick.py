"""The benchmarks run: their quick form gives one flat object of figures. How fast is not asserted."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long

ETL = {"speedup", "memory_ratio", "times_csv_read", "rows_per_second", "peak_rss_gib"}


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("etl --repeats 1", ETL),
        ("metadata --repeats 1", {"times_read_json", "mb_per_second", "peak_rss_gib"}),
        (
            "extraction --repeats 1",
            {"fraction_of_forward", "items_per_second", "reader_fraction_of_pillow", "noop_seconds"},
        ),
        ("search --repeats 1", {"p50_ms", "p95_ms"}),
        ("lookup --repeats 1", {"p50_ms", "p95_ms"}),
        ("store", {"folder_publish_ms", "bucket_open_cold_mb_per_second", "bucket_publish_requests"}),
        ("ranking", {"speedup", "peak_rss_gib"}),
        ("ssd", {"slope"}),
        ("launches", {"launches_per_step", "published_launches_per_step", "recordings_per_step"}),
        ("transfer", {"default_finetuned_NDCG@10", "published_scratch_without_id_NDCG@10"}),
    ],
)
def test_the_quick_form_gives_its_figures(name: str, figures: set[str]) -> None:
    found = quick_figures(name)
    assert figures <= set(found)
    assert all(isinstance(value, str) or value >= 0 for value in found.values())


def quick_figures(name: str) -> dict[str, Any]:
    """The figures of a benchmark, given by its name and options, in its quick form."""
    done = subprocess.run(
        [sys.executable, "-m", *f"benchmarks.{name}".split(), "--quick", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
