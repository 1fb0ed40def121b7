"""Processes: how this one ends when a signal asks it to, and how those that it has started are ended.

A training survives `kill -9` at any moment, so a signal need not be raised as an exception: one raised in the middle of
an import or of a library's own clean-up may be lost there.
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
"""Seconds from asking a process to end until it is killed."""


def end(processes: Iterable[BaseProcess], grace: float | None = None) -> None:
    """Ask these processes to end (SIGTERM), and kill those that still live after `grace` seconds (None: `GRACE`)."""
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
    """The signals of `ENDING`, without SIGHUP where whoever started this process had it ignored (nohup)."""
    return [each for each in ENDING if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def end_on_signals(first: Callable[[int], None] | None = None) -> None:
    """From now on a signal of `ENDING` ends this process with exit code 128 + signal, and a second one ends it at once.

    Also where whoever started it had SIGINT or SIGTERM ignored, as a shell does for `command &` in a script; an ignored
    SIGHUP (nohup) stays ignored. `first` is called with the first signal, in the main thread: `leave` if None.
    """
    answered = answered_signals()

    def hear(number: int, frame: FrameType | None) -> None:
        for each in answered:
            signal.signal(each, lambda again, _: os._exit(128 + again))
        (first or leave)(number)

    for each in answered:
        signal.signal(each, hear)


def default_signals() -> None:
    """From now on the system ends this process at a signal of `ENDING`, also in a library that waits for others."""
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it through `multiprocessing` is gone, however it went."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def leave(number: int) -> NoReturn:
    """End the processes that `multiprocessing` has started here, then this one, as the signal `number` asks."""
    try:
        end(active_children())
    finally:
        os._exit(128 + number)
