"""The terminal: everything that the command line prints for people goes through this module.

Ids, titles, file names and error texts come from outside. They are always shown as plain text: no control character
reaches the terminal, and nothing in them is interpreted as rich markup or as an emoji name.
"""

import logging
import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from mmm4rec.printable import visible

__all__ = ["Terminal", "err", "escaped", "out"]


_PIPE = 160


class Terminal(Console):
    """rich's console, which shows control characters as text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)
        self._width = options.get("width")  # COLUMNS is read at each print, not at import

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        """Columns and lines. A pipe has no width limit."""
        found = super().size
        return found if self.is_terminal or "COLUMNS" in os.environ else ConsoleDimensions(_PIPE, found.height)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Like rich, but control characters in text are written out. rich's own are segments of another kind."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _write_out(record: logging.LogRecord) -> bool:
    """A log filter that writes out control characters, because Dagster's servers print log lines."""
    record.msg, record.args = visible(record.getMessage()), ()
    return True


def escaped(value: object) -> str:
    """A value from outside, escaped for a line with markup."""
    return escape(visible(str(value)))


out = Terminal()
err = Terminal(stderr=True)

logging.getLogger("mmm4rec").addFilter(_write_out)
# Log records that no handler takes are printed on stderr; these lines also show control characters as text.
if logging.lastResort:
    logging.lastResort.setFormatter(_Visible())
