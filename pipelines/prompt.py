"""`mmm4rec sql` without a statement: scripts from a pipe, and a prompt for people.

Neither can do more than one question can: both ask a `Session`, which is read-only and confined. What is shown, and
how, is the caller's business.
"""

import csv
import difflib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TextIO

import pyarrow as pa

from pipelines.signals import restore_defaults
from warehouse.errors import WarehouseError
from warehouse.query import Session, ends
from warehouse.questions import Example, example, examples

__all__ = ["Prompt", "answers", "ask", "example_table", "parameters", "rows", "write_csv"]

SHOWN: Final = 100
"""Rows that a prompt shows of an answer."""

HISTORY: Final = ".mmm4rec_history"
"""In the home folder: what was typed, up to `_HISTORY_LINES`."""

_HISTORY_LINES: Final = 1000

_HELP: Final = """\
SELECT ...;                  ends with a semicolon, on any number of lines; only questions, the catalogue is read-only
.tables                      tables, views and macros, with what they hold
.describe NAME               columns of one, with what they mean (DESCRIBE NAME; gives the types only)
.examples                    questions ready to run
.example NAME [KEY=VALUE]    runs one, and shows its SQL to change
.refresh                     goes over to a catalogue that was built meanwhile; until then all answers are of one
.quit                        or Ctrl-D; Ctrl-C stops a query or drops what was typed"""


def ask(session: Session, sql: str, bound: Mapping[str, Any] | None = None, limit: int | None = None) -> pa.Table:
    """As `Session.ask`, but Ctrl-C ends it at once.

    In a thread of its own: a thread that waits for DuckDB hears of no signal, some queries through.
    """
    with ThreadPoolExecutor(1) as aside:
        answer = aside.submit(session.ask, sql, bound, limit)
        try:
            return answer.result()
        except KeyboardInterrupt:
            session.interrupt()
            raise


def answers(session: Session, script: str, bound: Mapping[str, Any]) -> Iterator[pa.Table]:
    """The answer to each statement of a script; the first error ends it."""
    for statement in session.statements(script):
        yield ask(session, statement, bound)


def parameters(given: list[str]) -> dict[str, str]:
    """``name=value`` texts as a mapping.

    Raises:
        WarehouseError: one has no name or no equals sign.
    """
    pairs = [text.partition("=") for text in given]
    for text, (name, equals, _) in zip(given, pairs, strict=True):
        if not (name and equals):
            raise WarehouseError(f"{text!r} is no parameter: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def example_table() -> pa.Table:
    """All examples: name, question, parameters with their defaults."""
    found_rows = [
        {
            "name": found.name,
            "question": found.question,
            "parameters": "\n".join(
                p.name if p.default is None else f"{p.name}={p.default}" for p in found.parameters.values()
            ),
        }
        for found in examples()
    ]
    return pa.Table.from_pylist(found_rows)


def rows(answer: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows by place, since two columns of an answer may have one name."""
    return zip(*(column.to_pylist() for column in answer.columns), strict=True)


def write_csv(answer: pa.Table, file: TextIO) -> None:
    """CSV with a header line; lists and structs as JSON, nulls empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(answer.column_names)
    for row in rows(answer):
        writer.writerow([json.dumps(cell, default=str) if isinstance(cell, list | dict) else cell for cell in row])


class Prompt:
    """A conversation with the catalogue on the terminal. An error ends nothing but its statement."""

    def __init__(
        self,
        session: Session,
        show: Callable[[pa.Table], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        self._session = session
        self._show, self._say, self._complain = show, say, complain
        self._told = False
        self._commands: dict[str, Callable[..., None]] = {
            ".tables": lambda: show(session.ask_named("catalogue_entries")),
            ".describe": self._describe,
            ".examples": lambda: show(example_table()),
            ".example": self._example,
            ".refresh": self._refresh,
            ".help": lambda: say(_HELP),
        }

    def run(self) -> None:
        """Read and answer until .quit or the end of the input."""
        restore_defaults()
        save = _line_editing(self._session)
        self._say(f"{self._session.catalogue}, read-only; .help says what you can do, .quit ends")
        try:
            self._converse()
        finally:
            save()

    def _converse(self) -> None:
        typed = ""
        while True:
            try:
                self._tell_of_a_newer_one()
                line = input("    ...> " if typed else "mmm4rec> ")
                if not typed and line.startswith("."):
                    name, *arguments = line.split()
                    if name in (".quit", ".exit"):
                        return
                    self._command(name, arguments)
                    continue
                typed = f"{typed}{line}\n".lstrip()
                if ends(typed):
                    # Before it is asked: an error or Ctrl-C leaves an empty prompt.
                    script, typed = typed, ""
                    for statement in self._session.statements(script):
                        self._answer(statement)
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                typed = ""
                self._say("")
            except WarehouseError as error:
                self._complain(str(error))

    def _command(self, name: str, arguments: list[str]) -> None:
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, 1)
            raise WarehouseError(f"{name} is no command; {f'did you mean {near[0]}?' if near else '.help lists them'}")
        command = self._commands[name]
        try:
            inspect.signature(command).bind(*arguments)
        except TypeError:
            raise WarehouseError(f"{name} takes other arguments: see .help") from None
        command(*arguments)

    def _answer(self, statement: str, bound: Mapping[str, Any] | None = None) -> None:
        answer = ask(self._session, statement, bound, limit=SHOWN + 1)
        self._show(answer.slice(0, SHOWN))
        if answer.num_rows > SHOWN:
            self._say(f"the first {SHOWN} rows; `mmm4rec sql --csv '...'` writes all of them")

    def _describe(self, name: str) -> None:
        columns = self._session.ask_named("catalogue_describe", {"name": name.removesuffix(";")})
        if not columns.num_rows:
            raise WarehouseError(f"there is no {name}; .tables lists what there is")
        self._show(columns)

    def _example(self, name: str, *given: str) -> None:
        found: Example = example(name)
        bound = found.bind(parameters(list(given)))
        self._say(found.sql.rstrip())
        self._answer(found.sql, bound)

    def _refresh(self) -> None:
        self._session.refresh()
        self._told = False
        self._say(f"{self._session.catalogue} as it is now")

    def _tell_of_a_newer_one(self) -> None:
        if self._session.superseded and not self._told:
            self._told = True
            self._say("a newer catalogue has been built: .refresh goes over to it")


def _line_editing(session: Session) -> Callable[[], None]:
    """Arrow keys, history and completion of names by TAB, where Python has readline; returns what saves the history."""
    try:
        import readline
    except ImportError:
        return lambda: None
    history = Path.home() / HISTORY
    words: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if not words:
            words.extend(session.ask_named("catalogue_names")["name"].to_pylist())
        return next(iter([word for word in words if word.startswith(text)][state:]), None)

    def save() -> None:
        readline.set_history_length(_HISTORY_LINES)
        try:
            readline.write_history_file(history)
        except OSError:
            return  # A home that cannot be written to costs the history, nothing else.

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    if history.is_file():
        readline.read_history_file(history)
    return save
