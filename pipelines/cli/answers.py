"""The output of commands: a table or JSON on stdout, and warnings and errors on stderr.

This module escapes all text from outside (ids, titles, error texts) that is printed for people. Each command decides
which values it prints.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from mmm4rec.printable import plain, visible
from pipelines.terminal import err, escaped, out

if TYPE_CHECKING:
    from pipelines.data_folder.folder import DataFolder
    from pipelines.running.runs import StageResult

__all__ = [
    "answer",
    "fail",
    "print_error",
    "print_json",
    "print_note",
    "print_rows",
    "print_table",
    "print_text",
    "print_warning",
    "report_failures",
    "warn_of_damaged",
    "warn_of_left_out",
]


_READABLE = 16
"""Characters of a long text below which a column of a table is too narrow to read."""


def answer(as_json: bool, value: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print `value` as JSON for programs, or `rows` as a table for people."""
    if as_json:
        print_json(value)
    else:
        print_table(columns, rows)


def print_json(value: Any) -> None:
    """Print JSON for programs. NaN and infinite numbers become null, because JSON does not have them."""
    typer.echo(json.dumps(plain(value), indent=1, default=str, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table for people. A cell that is None is shown empty."""
    heading = None if title is None else escaped(title)
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in columns:
        table.add_column(escaped(column), overflow="fold", no_wrap=column in ("domain", "item"))
    for row in rows:
        table.add_row(*("" if cell is None else escaped(cell) for cell in row))
    out.print(table)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print the answer of a query: as a table, or row by row if its columns would be too narrow to read.

    A block has one line per column, and a value that is too long for its line ends with an ellipsis. A null is shown as
    NULL and an empty text as two quotes.
    """
    cells = [[_shown(cell) for cell in row] for row in rows]
    if not cells or _fits(columns, cells):
        print_table(columns, cells)
        return
    names = [visible(column) for column in columns]
    wide = max(map(cell_len, names))
    for number, row in enumerate(cells, 1):
        out.print(f"row {number:,}", style="dim", highlight=False)
        lines = [
            f"{set_cell_size(name, wide)}  {' '.join(visible(cell).split())}"
            for name, cell in zip(names, row, strict=True)
        ]
        out.print(Text("\n".join(lines)), no_wrap=True, overflow="ellipsis", highlight=False)


def _shown(cell: Any) -> str:
    if cell is None:
        return "NULL"
    return "''" if cell == "" else str(cell)


def _fits(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> bool:
    """Whether every column of a table has room for its name and for the first `_READABLE` characters of its texts."""
    needed = [
        max(min(max(cell_len(line) for line in text.split("\n")), _READABLE) for text in (name, *column))
        for name, column in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    return sum(needed) + 2 * len(needed) <= out.width


def print_text(text: str) -> None:
    """Print a line on stdout, unchanged."""
    out.print(escaped(text), highlight=False, soft_wrap=True)


def print_note(text: str) -> None:
    """Print a dim line on stderr, in addition to an answer."""
    err.print(escaped(text), style="dim", highlight=False, soft_wrap=True)


def print_warning(text: str, about: str | None = None) -> None:
    """Print a yellow line on stderr. With `about`, the line starts with these words and only they are yellow."""
    line = escaped(text) if about is None else f"[yellow]{escaped(about)}:[/yellow] {escaped(text)}"
    err.print(line, style="yellow" if about is None else None, highlight=False, soft_wrap=True)


def print_error(text: str, about: str = "error") -> None:
    """Print a line on stderr that starts with the red words `about`."""
    err.print(f"[red]{escaped(about)}:[/red] {escaped(text)}", highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Stop the command with this message and exit code 1."""
    from pipelines.errors import CommandError

    raise CommandError(message)


def report_failures(outcomes: Sequence["StageResult"]) -> list["StageResult"]:
    """Print the warnings of all runs and the errors of the failed runs. Return the failed runs."""
    for outcome in outcomes:
        for check, message in outcome.warnings.items():
            print_warning(message, about=f"{outcome.stage.name}: {check}")
    failures = [outcome for outcome in outcomes if outcome.errors or outcome.waited_for]
    for outcome in failures:
        place = outcome.stage.name
        if outcome.waited_for:
            key, domain = outcome.waited_for
            print_warning(f"{place}: skipped, because {key} of {domain} failed")
        for key, message in outcome.errors.items():
            print_error(message, about=f"{place}: {key}")
    return failures


def warn_of_left_out(data_folder: "DataFolder", concerning: Collection[str] | None = None) -> None:
    """Print a warning for each raw file that is not read or that does not form a domain.

    With `concerning`, only for files that are named like one of these domains or like a source domain.
    """
    for name, reason in data_folder.left_out(concerning).items():
        print_warning(reason, about=f"left out {name!r}")


def warn_of_damaged(data_folder: "DataFolder") -> None:
    """Print a warning for each damaged artifact that no run has rebuilt yet."""
    for message in data_folder.damaged():
        print_warning(message)
