"""Progress: how far a long build is, as a bar in a terminal or as lines in Dagster's log."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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

from pipelines.signals import Interrupted
from pipelines.terminal import Terminal
from warehouse.artifacts.progress import Progress

_bars: Bars | None = None


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


@contextmanager
def bars() -> Iterator[None]:
    """Within it, `show` draws bars on the terminal instead of logging."""
    global _bars
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<44}", markup=False), BarColumn(24), MofNCompleteColumn(),
        _Rate(), TimeElapsedColumn(),
    )  # fmt: skip
    # Dagster captures a step's stderr into its log; bars are for the terminal, so they keep a descriptor of their own.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal,
        Bars(*columns, console=Terminal(file=terminal)) as _bars,
    ):
        try:
            yield
        except Interrupted as error:
            _bars.console.print(f"ended by {error}; what is finished is kept")
            raise
        finally:
            _bars = None


@contextmanager
def show(what: str) -> Iterator[Progress]:
    """Show the progress of one build, named `what`."""
    if _bars is None:
        yield _logged(what)
        return
    shown = _bars
    task = shown.add_task(what, total=None)
    try:
        yield lambda done, total: shown.update(task, completed=done, total=total)
    finally:
        done = next(known for known in shown.tasks if known.id == task)
        shown.remove_task(task)
        # What took a moment needs no line of its own.
        if (done.elapsed or 0) >= 1:
            shown.console.print(f"{what:<40} {done.elapsed:6.1f} s", markup=False, highlight=False)


def _logged(what: str) -> Progress:
    """A line at every tenth of the way."""
    log = logging.getLogger("mmm4rec")
    last = -1

    def progress(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // max(total, 1)
        if tenth != last:
            last = tenth
            log.info("%s: %d of %d", what, done, total)

    return progress
