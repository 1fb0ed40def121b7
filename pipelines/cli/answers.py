"""The output of commands: a table or JSON on stdout, and warnings and errors on stderr.

This module escapes all text from outside (ids, titles, error texts) that is printed for people. Each command decides
which values it prints.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich import box
from rich.table import Table

from mmm4rec.printable import plain
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
    "print_table",
    "print_text",
    "print_warning",
    "report_failures",
    "warn_of_damaged",
    "warn_of_left_out",
]


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
