"""The shape of the project: how long files and functions are, and a picture that is current. Borders: `make check`."""

import ast
import runpy
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOMS = ("pipelines", "features", "mmm4rec", "warehouse")
FILES = sorted(path for room in (*ROOMS, "benchmarks", "docs") for path in (REPOSITORY / room).rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60
LINES_OF_A_KERNEL = 80
"""A kernel in Triton keeps its tiles in registers, and its arguments alone are ten lines."""


def _named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    lines = {_named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > LINES_OF_A_FILE} == {}


def test_no_function_is_too_long() -> None:
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                kernel = path.parent.name == "fused" and bool(node.decorator_list)
                if lines > (LINES_OF_A_KERNEL if kernel else LINES_OF_A_FUNCTION):
                    long[f"{_named(path)}: {node.name}"] = lines
    assert long == {}


def test_the_picture_is_what_the_imports_are() -> None:
    drawn = runpy.run_path(str(REPOSITORY / "docs" / "draw_architecture.py"))
    assert drawn["PICTURE"].read_text(encoding="utf-8") == drawn["draw"](), "`make docs` draws it anew"


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_pages_name_files_that_are_there(name: str) -> None:
    """A file or folder of a room in backticks; of `<name>` nothing is known."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    named = {part for part in text.split("`")[1::2] if part.startswith(tuple(f"{room}/" for room in (*ROOMS, "tests")))}
    assert [part for part in sorted(named) if "<" not in part and not (REPOSITORY / part).exists()] == []
