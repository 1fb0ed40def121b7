"""What commands do without, so that they answer at once: modules, as times depend on the machine."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.conftest import Cli

HEAVY = {"dagster", "torch", "matplotlib", "transformers", "sentence_transformers", "lightning_fabric", "jinja2"}


def _loaded(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends."""
    code = (
        "import sys\nfrom pipelines.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {*HEAVY, "duckdb", "pyarrow", "numpy", "yaml", "requests"}),
        (["--version"], {*HEAVY, "duckdb", "yaml", "requests"}),
    ],
)
def test_what_asks_for_no_data_loads_nothing_that_reads_it(arguments: Sequence[str], absent: set[str]) -> None:
    assert _loaded(*arguments) & absent == set()


@pytest.mark.parametrize("arguments", [["domains"], ["run", "--dry-run"]])
def test_what_is_stale_is_found_without_what_builds(arguments: Sequence[str], tiny: Cli) -> None:
    assert _loaded(*arguments, "--data", str(tiny.data)) & {*HEAVY, "duckdb", "requests"} == set()
