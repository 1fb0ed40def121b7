"""Processes: how this process ends on a signal, and how it ends the processes that it has started.

A training survives `kill -9` at any moment, so a signal does not have to raise an exception. An exception that is
raised during an import or during a library's own clean-up could be lost there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import active_children, parent_process
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final, NoReturn

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a process to end."""
GRACE: Final = 5.0
"""Seconds between the request to end and killing the process."""


def end(processes: Iterable[BaseProcess], grace: float | None = None) -> None:
    """Send SIGTERM to these processes, and kill those that still run after `grace` seconds (None: `GRACE`)."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    latest = time.monotonic() + (GRACE if grace is None else grace)
    for process in asked:
        process.join(max(0.0, latest - time.monotonic()))
    for process in asked:
        process.kill()
        process.join()


def answered_signals() -> list[signal.Signals]:
    """The signals of `ENDING`, without SIGHUP if this process was started with SIGHUP ignored (nohup)."""
    return [each for each in ENDING if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def end_on_signals(first: Callable[[int], None] | None = None) -> None:
    """From now on, a signal of `ENDING` ends this process with exit code 128 + signal. A second signal ends it at once.

    This also holds if the process was started with SIGINT or SIGTERM ignored, as a shell does for `command &` in a
    script. An ignored SIGHUP (nohup) stays ignored. The first signal calls `first` (default: `leave`) in the main
    thread.
    """
    answered = answered_signals()

    def hear(number: int, frame: FrameType | None) -> None:
        for each in answered:
            signal.signal(each, lambda again, _: os._exit(128 + again))
        (first or leave)(number)

    for each in answered:
        signal.signal(each, hear)


def default_signals() -> None:
    """From now on, the system ends this process on a signal of `ENDING`, also while a library waits for others."""
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)


def end_with_parent() -> None:
    """From now on, this process ends when the process that started it through `multiprocessing` ends in any way."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def leave(number: int) -> NoReturn:
    """End the processes that `multiprocessing` has started here, then this one, as the signal `number` requires."""
    try:
        end(active_children())
    finally:
        os._exit(128 + number)
