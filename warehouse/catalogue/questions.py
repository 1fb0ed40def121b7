"""The example queries in ``examples/``: questions of analysts, ready to run and to change.

An example starts with comment lines: the question, then one line per parameter with its default as JSON, so that every
example runs unchanged. If the data decide the default, it is a query in brackets, which may use the parameters above::

    -- Which items of a domain are the most popular?
    -- $domain = (SELECT min(domain) FROM domains): the domain; by default the first one
    -- $top = 10: number of items
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from warehouse.errors import DataError

__all__ = ["Example", "example", "examples"]

_PARAMETER: Final = re.compile(r"-- \$(?P<name>\w+) = (?P<default>\(SELECT .+\)|\S+): (?P<meaning>.+)")
Ask = Callable[[str, dict[str, Any]], list[dict[str, Any]]]
"""Asks the catalogue: takes a query and its parameters, returns rows."""


@dataclass(frozen=True)
class Parameter:
    """A $-parameter of an example. It has the type of its default; if that is null or a query, it is text."""

    name: str
    default: str | int | float | None
    meaning: str
    query: str | None = None
    """The query that gives the default, if the data decide it."""

    def read(self, text: str) -> str | int | float:
        """A value as typed on the command line."""
        kind = str if self.default is None else type(self.default)
        try:
            return kind(text)
        except ValueError:
            raise DataError(f"{self.name} is {text!r}, but must be a number such as {self.default}") from None


@dataclass(frozen=True)
class Example:
    """A question of an analyst, and the statement that answers it."""

    name: str
    question: str
    parameters: Mapping[str, Parameter]
    sql: str

    def bind(self, given: Mapping[str, str], ask: Ask) -> dict[str, Any]:
        """The value of every parameter: `given` as typed, otherwise the default, which may need `ask`.

        Raises:
            DataError: the example has no parameter with a name, or a text is not a number where one is required.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise DataError(f"the example {self.name} has no parameter {name!r}; it has: {known}")
        bound: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            bound[name] = parameter.read(given[name]) if name in given else parameter.default
            if name not in given and parameter.query:
                used = {other: value for other, value in bound.items() if f"${other}" in parameter.query}
                ((bound[name],),) = (row.values() for row in ask(parameter.query, used))
        return bound


def examples() -> list[Example]:
    """All examples, by name."""
    found = (path for path in (files("warehouse.catalogue") / "examples").iterdir() if path.name.endswith(".sql"))
    return [_parse(path.name.removesuffix(".sql"), path.read_text("utf-8")) for path in sorted(found, key=str)]


def example(name: str) -> Example:
    """The example with this name.

    Raises:
        DataError: there is no such example.
    """
    known = {found.name: found for found in examples()}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise DataError(f"there is no example {name!r}; {hint}")
    return known[name]


def _parse(name: str, sql: str) -> Example:
    question, *lines = sql.split("\n")
    parameters = {}
    for line in lines:
        if not (declared := _PARAMETER.fullmatch(line)):
            break
        name_of, default, meaning = declared.group("name", "default", "meaning")
        query = default if default.startswith("(") else None
        parameters[name_of] = Parameter(name_of, None if query else json.loads(default), meaning, query)
    return Example(name, question.removeprefix("-- "), parameters, sql)
