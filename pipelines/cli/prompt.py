"""`mmm4rec sql` without a statement: scripts from a pipe, and a prompt for people.

Both can do only what a single query can do, because both use a `Session`, which is read-only and confined. The caller
decides what is shown and how.
"""

import csv
import difflib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import pyarrow as pa

from mmm4rec.printable import plain, visible
from pipelines.errors import CommandError
from pipelines.signals import restore_defaults
from warehouse.catalogue.query import Answer, Session, ends
from warehouse.catalogue.questions import Example, example, examples
from warehouse.errors import DataError

__all__ = ["Prompt", "ask", "chosen", "example_table", "parameters", "rounded", "rows", "stream", "whole", "write"]

T = TypeVar("T")

SHOWN: Final = 100
"""The most rows of an answer that the prompt shows."""

TABLE: Final = 1000
"""The most rows of an answer that a table shows outside the prompt."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Characters with which a formula starts in a spreadsheet (OWASP, CSV injection)."""

HISTORY: Final = ".mmm4rec_history"
"""File in the home folder with the last `_HISTORY_LINES` lines that were typed."""

_HISTORY_LINES: Final = 1000

_HELP: Final = """\
SELECT ...;                  runs a query; end it with a semicolon, on any number of lines; the catalogue is read-only
.tables                      lists tables, views and macros, with a description of each
.describe NAME               lists its columns with their meaning (DESCRIBE NAME; shows only their types)
.examples                    lists queries that are ready to run
.example NAME [KEY=VALUE]    runs an example and shows its SQL, which you can change
.refresh                     switches to the newest catalogue; until then, all answers use the same catalogue
.quit                        or Ctrl-D: leaves; Ctrl-C stops a query or discards what was typed"""


def ask(session: Session, sql: str, bound: Mapping[str, Any] | None = None, limit: int | None = None) -> pa.Table:
    """Like `Session.ask`, but Ctrl-C stops it immediately."""
    return _aside(session, lambda: session.ask(sql, bound, limit))


def stream(session: Session, sql: str, bound: Mapping[str, Any] | None = None) -> Answer:
    """Like `Session.stream`, but Ctrl-C stops it immediately."""
    answer = _aside(session, lambda: session.stream(sql, bound))

    def batches() -> Iterator[pa.RecordBatch]:
        while (batch := _aside(session, lambda: next(answer.batches, None))) is not None:
            yield batch

    return Answer(answer.schema, batches())


def _aside(session: Session, question: Callable[[], T]) -> T:
    """Run a query in a separate thread: during some queries, a thread that waits for DuckDB receives no signals."""
    with ThreadPoolExecutor(1) as aside:
        answer = aside.submit(question)
        try:
            return answer.result()
        except KeyboardInterrupt:
            session.interrupt()
            raise


def whole(table: pa.Table) -> Answer:
    """A table in memory as an answer."""
    return Answer(table.schema, iter(table.to_batches()))


def parameters(given: list[str]) -> dict[str, str]:
    """Parse ``name=value`` texts into a mapping.

    Raises:
        CommandError: a text has no name or no equals sign.
    """
    pairs = [text.partition("=") for text in given]
    for text, (name, equals, _) in zip(given, pairs, strict=True):
        if not (name and equals):
            raise CommandError(f"{text!r} is not a parameter: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def example_table() -> pa.Table:
    """All examples, with name, question, and parameters with their defaults."""
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


def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    """The rows by position, because two columns of an answer may have the same name."""
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def rounded(value: Any) -> Any:
    """Round a number for people: to four decimals, a small one to four digits. Applies inside lists too."""
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 4) if abs(value) >= 1 else float(f"{value:.4g}")
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return value


def chosen(
    session: Session, example: Example, given: Mapping[str, str], say: Callable[[str], None], option: str = "--param "
) -> dict[str, Any]:
    """The parameters of an example. Prints each value that was not given and that therefore comes from the data.

    `option` is the text that the user types before a parameter.
    """
    bound = example.bind(given, lambda sql, known: session.ask(sql, known).to_pylist())
    for name, parameter in example.parameters.items():
        if name not in given and parameter.query:
            say(f"{name} = {bound[name]} ({parameter.meaning}); {option}{name}=... sets another value")
    return bound


def write(answer: Answer, form: str, file: TextIO) -> None:
    """Write an answer part by part, as "csv" or "json"."""
    (_write_csv if form == "csv" else _write_json)(answer, file)


def _write_csv(answer: Answer, file: TextIO) -> None:
    """Write CSV with a header line. Lists and structs are JSON, nulls are empty, and no text can act as a formula.

    Control characters go to files but not to a terminal.
    """
    shown = visible if file.isatty() else str

    def cell(value: Any) -> Any:
        if isinstance(value, list | dict):
            value = json.dumps(plain(value), default=str)
        if not isinstance(value, str):
            return value
        return shown(f"'{value}" if value.startswith(_FORMULA) else value)

    writer = csv.writer(_Lines(file), lineterminator="\r\n")
    writer.writerow(map(cell, answer.columns))
    for row in rows(answer.batches):
        writer.writerow(map(cell, row))


class _Lines:
    """Replaces CR LF at the end of rows with LF, because `csv` quotes only the line ends that it writes itself."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        self._file.write(row.removesuffix("\r\n") + "\n")


def _write_json(answer: Answer, file: TextIO) -> None:
    """Write a list of objects, one per row, in the format of `json.dumps` with an indent of 1."""
    before = "[\n"
    for row in rows(answer.batches):
        one = json.dumps(plain(dict(zip(answer.columns, row, strict=True))), indent=1, default=str, allow_nan=False)
        file.write(before + textwrap.indent(one, " "))
        before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


class Prompt:
    """A prompt for queries on the terminal. An error stops only its own statement.

    `show` prints the answer of a query, and `show_list` prints a list of names with their descriptions.
    """

    def __init__(
        self,
        session: Session,
        show: Callable[[pa.Table], None],
        show_list: Callable[[pa.Table], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        self._session = session
        self._show, self._show_list, self._say, self._complain = show, show_list, say, complain
        self._announced = False
        self._commands: dict[str, Callable[..., None]] = {
            ".tables": lambda: show_list(session.ask_named("catalogue_entries")),
            ".describe": self._describe,
            ".examples": lambda: show_list(example_table()),
            ".example": self._example,
            ".refresh": self._refresh,
            ".help": lambda: say(_HELP),
        }

    def run(self) -> None:
        """Read and answer until .quit or the end of the input."""
        restore_defaults()
        save = _line_editing(self._session)
        self._say(f"{self._session.catalogue}, read-only; .help lists the commands, .quit ends")
        try:
            self._converse()
        finally:
            save()

    def _converse(self) -> None:
        typed = ""
        while True:
            try:
                self._announce_a_newer_catalogue()
                line = input("    ...> " if typed else "mmm4rec> ")
                if not typed and line.startswith("."):
                    name, *arguments = line.split()
                    if name in (".quit", ".exit"):
                        return
                    self._command(name, arguments)
                    continue
                typed = f"{typed}{line}\n".lstrip()
                if ends(typed):
                    # Cleared before the query runs, so that an error or Ctrl-C leaves an empty prompt.
                    script, typed = typed, ""
                    for statement in self._session.statements(script):
                        self._answer(statement)
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                typed = ""
                self._say("")
            except (CommandError, DataError) as error:
                self._complain(str(error))

    def _command(self, name: str, arguments: list[str]) -> None:
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, 1)
            raise CommandError(f"{name} is not a command; {f'did you mean {near[0]}?' if near else '.help lists them'}")
        command = self._commands[name]
        try:
            inspect.signature(command).bind(*arguments)
        except TypeError:
            raise CommandError(f"{name} takes other arguments: see .help") from None
        command(*arguments)

    def _answer(self, statement: str, bound: Mapping[str, Any] | None = None) -> None:
        answer = ask(self._session, statement, bound, limit=SHOWN + 1)
        self._show(answer.slice(0, SHOWN))
        if answer.num_rows > SHOWN:
            self._say(f"only the first {SHOWN} rows; `mmm4rec sql --csv '...'` writes all of them")

    def _describe(self, name: str) -> None:
        columns = self._session.ask_named("catalogue_describe", {"name": name.removesuffix(";")})
        if not columns.num_rows:
            raise CommandError(f"there is no {name}; .tables lists the names")
        self._show_list(columns)

    def _example(self, name: str, *given: str) -> None:
        found: Example = example(name)
        bound = chosen(self._session, found, parameters(list(given)), self._say, option="")
        self._say(found.sql.rstrip())
        self._answer(found.sql, bound)

    def _refresh(self) -> None:
        self._session.refresh()
        self._announced = False
        self._say(f"answers now use the newest {self._session.catalogue}")

    def _announce_a_newer_catalogue(self) -> None:
        if self._session.superseded and not self._announced:
            self._announced = True
            self._say("a newer catalogue has been built: .refresh switches to it")


def _line_editing(session: Session) -> Callable[[], None]:
    """Enable arrow keys, history and TAB completion if Python has readline; return a function that saves history."""
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
            return  # If the home folder is not writable, only the history is lost.

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    if history.is_file():
        readline.read_history_file(history)
    return save
