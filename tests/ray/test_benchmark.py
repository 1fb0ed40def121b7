"""The benchmark of steps on one node and on two: its quick form gives its figures. How fast is not asserted."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("dagster_ray", reason="dagster-ray is not installed; `make ray` runs these tests")
pytestmark = pytest.mark.long


def test_the_quick_form_gives_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--quick", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["artifacts"] == 5
    assert found["two_nodes_against_one"] > 0
