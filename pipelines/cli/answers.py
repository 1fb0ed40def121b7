"""How commands answer: a table or JSON on stdout; warnings and errors on stderr.

What is printed for people and comes from outside (ids, titles, texts of errors) is escaped here. Which values a command
answers with is the command's business.
"""

import json
from collections.abc import Iterable, Sequence
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
    """JSON for programs: NaN and infinite numbers, which it does not have, are null."""
    typer.echo(json.dumps(plain(value), indent=1, default=str, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table for people; a cell that is None is empty."""
    heading = None if title is None else escaped(title)
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in columns:
        table.add_column(escaped(column), overflow="fold", no_wrap=column in ("domain", "item"))
    for row in rows:
        table.add_row(*("" if cell is None else escaped(cell) for cell in row))
    out.print(table)


def print_text(text: str) -> None:
    """A line on stdout, as it is."""
    out.print(escaped(text), highlight=False, soft_wrap=True)


def print_note(text: str) -> None:
    """A dim line on stderr, beside an answer."""
    err.print(escaped(text), style="dim", highlight=False, soft_wrap=True)


def print_warning(text: str, about: str | None = None) -> None:
    """A yellow line on stderr; with `about`, only these words before it are yellow."""
    line = escaped(text) if about is None else f"[yellow]{escaped(about)}:[/yellow] {escaped(text)}"
    err.print(line, style="yellow" if about is None else None, highlight=False, soft_wrap=True)


def print_error(text: str, about: str = "error") -> None:
    """A line on stderr, with the red words `about` before it."""
    err.print(f"[red]{escaped(about)}:[/red] {escaped(text)}", highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """End the command with this message and exit code 1."""
    from pipelines.errors import CommandError

    raise CommandError(message)


def report_failures(outcomes: Sequence["StageResult"]) -> list["StageResult"]:
    """Print the warnings of all runs and the errors of those that failed; return the latter."""
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


def warn_of_left_out(data_folder: "DataFolder") -> None:
    """Name the raw files that are not read, and those that make no domain."""
    for name, reason in data_folder.left_out().items():
        print_warning(reason, about=f"left out {name!r}")


def warn_of_damaged(data_folder: "DataFolder") -> None:
    """Name what is damaged and no run has built anew."""
    for message in data_folder.damaged():
        print_warning(message)
