"""The benchmark of steps on one node and on two: its quick form gives its figures. How fast is not asserted."""

import pytest

from tests.benchmarks.test_quick import quick_figures

pytest.importorskip("dagster_ray", reason="dagster-ray is not installed; `make ray` runs these tests")
pytestmark = pytest.mark.long


def test_the_quick_form_gives_its_figures() -> None:
    found = quick_figures("scaling")
    assert found["artifacts"] == 5
    assert found["two_nodes_against_one"] > 0
