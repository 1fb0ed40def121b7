"""The terminal: everything the command line prints for people goes through here.

Ids, titles, file names and the texts of errors come from outside. Whatever they hold, they are shown as text: no
control character reaches the terminal, and nothing of them is taken for rich's markup or for the name of an emoji.
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
    """rich's console, to which control characters in a text are text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)
        self._width = options.get("width")  # COLUMNS is read when it is printed, not when this is imported

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        """Columns and lines; a pipe has no width to fit into."""
        found = super().size
        return found if self.is_terminal or "COLUMNS" in os.environ else ConsoleDimensions(_PIPE, found.height)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with the control characters written out; rich's own are segments of another kind."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _write_out(record: logging.LogRecord) -> bool:
    """A filter that lets all pass, with control characters written out: servers of Dagster print what is logged."""
    record.msg, record.args = visible(record.getMessage()), ()
    return True


def escaped(value: object) -> str:
    """A value from outside as it may stand in a line with markup."""
    return escape(visible(str(value)))


out = Terminal()
err = Terminal(stderr=True)

logging.getLogger("mmm4rec").addFilter(_write_out)
# What is logged where nobody has set up logging goes to stderr too.
if logging.lastResort:
    logging.lastResort.setFormatter(_Visible())
