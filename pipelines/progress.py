"""The progress of a long build, as lines in Dagster's event log and, for a command, as a bar in its terminal.

dagster.yaml turns the log lines of the logger `mmm4rec` during a step into events of its run. Every line costs a write
to Dagster's database, so `_Lines` keeps their number small. The other packages decide what they log themselves (an
epoch of a training, a host that does not answer).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from mmm4rec.printable import duration
from pipelines.signals import Interrupted
from pipelines.terminal import Terminal
from warehouse.artifacts.progress import Progress

_FIRST = 10.0
"""Seconds until the first line. A shorter build writes no line."""
_SHARE = 50
"""The time between two lines is at least 1/50 of the elapsed time and at least `_FIRST`: 50 lines in eight minutes,
300 in a day."""

_log = logging.getLogger("mmm4rec")
_bars: Bars | None = None


class _Rate(ProgressColumn):
    """The rate per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


@contextmanager
def bars() -> Iterator[None]:
    """A context in which `show` draws bars on the terminal and prints the warnings of a step above them."""
    global _bars
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<44}", markup=False), BarColumn(24), MofNCompleteColumn(),
        _Rate(), TimeElapsedColumn(),
    )  # fmt: skip
    # Dagster captures a step's stderr into its log. The bars belong on the terminal, so they use their own descriptor.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal,
        Bars(*columns, console=Terminal(file=terminal)) as _bars,
    ):
        printing = _Warnings(_bars.console)
        _log.addHandler(printing)
        try:
            yield
        except Interrupted as error:
            _bars.console.print(f"ended by {error}; finished work is kept")
            raise
        finally:
            _log.removeHandler(printing)
            _bars = None


@contextmanager
def show(what: str) -> Iterator[Progress]:
    """Show the progress of one build with the name `what`."""
    lines = _Lines(what)
    if _bars is None:
        yield lines
        return
    shown = _bars
    task = shown.add_task(what, total=None)

    def progress(done: int, total: int) -> None:
        shown.update(task, completed=done, total=total)
        lines(done, total)

    try:
        yield progress
    finally:
        done = next(known for known in shown.tasks if known.id == task)
        shown.remove_task(task)
        # No line for a build that took only a moment.
        if (done.elapsed or 0) >= 1:
            shown.console.print(f"{what:<40} {done.elapsed:6.1f} s", markup=False, highlight=False)


class _Warnings(logging.Handler):
    """Prints warnings above the bars: when Dagster captures logs, Python's own output to the terminal is off."""

    def __init__(self, terminal: Console) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


class _Lines:
    """An occasional line in the log: amount done, total, rate per second, and time left."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._begun = self._said = clock()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first = done, now  # work done by an earlier process must not count in this process's rate
        if now - self._said < max(_FIRST, (now - self._begun) / _SHARE):
            return
        self._said = now
        before, since = self._first
        pace = (done - before) / (now - since) if now > since else 0.0
        left = f", {pace:,.3g} a second, {duration((total - done) / pace)} left" if pace else ""
        _log.info("%s: %s of %s (%d%%)%s", self._what, f"{done:,}", f"{total:,}", 100 * done // max(total, 1), left)
