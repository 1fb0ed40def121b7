"""Signals: one SIGINT, SIGTERM or SIGHUP ends a command, with exit code 128 + signal.

Builds survive `kill -9` at any moment, so a signal does not have to wait for a clean state. A signal never raises an
exception in the middle of work: an import might swallow it, and Dagster would treat it as a failed step and retry the
step. Only what others can see is cleaned up: child processes, the terminal, and the run in Dagster's event log. For the
last two, work runs `aside`.
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
"""Whether the main thread only waits for work that runs `aside`."""


class Interrupted(BaseException):
    """A signal came while the main thread waited in `aside`. Handle it with `leave(number)`, as the work continues."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def end_commands() -> None:
    """From now on, signals end this process, even if it was started with them ignored. A second one ends it at once."""
    end_on_signals(_on_first_signal)


def restore_defaults() -> None:
    """Restore Python's default signals: SIGINT raises KeyboardInterrupt, SIGTERM ends the process.

    For a command that handles signals itself.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def aside(work: Callable[[], T]) -> T:
    """Call `work()` in a separate thread, where no signal is raised. Return or raise what it returns or raises.

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
