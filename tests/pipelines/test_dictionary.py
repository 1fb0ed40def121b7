"""docs/data_dictionary.md is what the declarations say, and the page on the catalogue runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dictionary import dictionary
from tests.conftest import REPOSITORY, Cli
from tests.test_tables import MADE, PRODUCED
from warehouse.catalogue.build import view_name
from warehouse.catalogue.macros import MACROS
from warehouse.catalogue.query import Session

PAGE = (REPOSITORY / "docs" / "catalogue.md").read_text()
BLOCKS = {
    kind: re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for kind in ("sh", "python", "sql")
}


def test_the_page_is_what_the_generator_gives() -> None:
    committed = (REPOSITORY / "docs" / "data_dictionary.md").read_text()
    assert committed == dictionary(), "`make docs` writes it anew"


def test_everything_is_in_it() -> None:
    headings = set(re.findall(r"^### ([\w.]+)", dictionary(), re.MULTILINE))
    tables = {".".join(view_name(key)) for key in PRODUCED}
    assert headings == tables | {key.replace("/", ".") for key in [*MADE, *MACROS]}


@pytest.mark.long
@pytest.mark.parametrize(
    "block", BLOCKS["sh"] + [f"{sys.executable} - <<'PYTHON'\n{b}PYTHON" for b in BLOCKS["python"]]
)
def test_the_commands_run(block: str, tiny: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tiny.data)
    path = f"{REPOSITORY / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "MMM4REC_DATA": str(tiny.data)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def test_the_statements_have_answers(tiny: Cli) -> None:
    with Session(tiny.data / "warehouse.duckdb") as session:
        asked = [statement for block in BLOCKS["sql"] for statement in session.statements(block)]
        assert len(asked) >= 5
        for statement in asked:
            assert session.ask(statement).num_rows, statement
