"""Signals: one SIGINT, SIGTERM or SIGHUP ends a command, with exit code 128 + signal.

What is built survives `kill -9` at any moment, so a signal need not wait until something is in order, and is raised
nowhere in the middle of work: there an import may swallow it, and Dagster takes it for a step's failure and tries the
step again. Only what others look at is put in order: child processes, the terminal, and the run in Dagster's event log.
For the latter two, work is done `aside`.
"""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from mmm4rec.processes import end_on_signals, leave

__all__ = ["Interrupted", "aside", "end_commands", "leave", "restore_defaults"]

T = TypeVar("T")

_waiting = False
"""Whether the main thread does nothing but wait for work that is done aside."""


class Interrupted(BaseException):
    """A signal came while the main thread waited in `aside`. Ends in `leave(number)`, since the work goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def end_commands() -> None:
    """From now on signals end this process, also where whoever started it had them ignored; a second one at once."""
    end_on_signals(_on_first_signal)


def restore_defaults() -> None:
    """Signals as Python has them at its start: SIGINT raises KeyboardInterrupt, SIGTERM ends the process.

    For a command that answers them itself.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def aside(work: Callable[[], T]) -> T:
    """What `work()` returns or raises, called in a thread of its own, where no signal is raised.

    Raises:
        Interrupted: a signal came, after `end_commands`. The thread cannot be stopped, so the process must end.
    """
    global _waiting
    if threading.current_thread() is not threading.main_thread():
        return work()
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    _waiting = True
    try:
        threading.Thread(target=run, name="work", daemon=True).start()
        return result.result()
    finally:
        _waiting = False


def _on_first_signal(number: int) -> None:
    if _waiting:
        raise Interrupted(number)
    leave(number)
