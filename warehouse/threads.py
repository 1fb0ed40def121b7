"""Work shared out among threads, its results in the order of what was asked for."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Final, TypeVar

__all__ = ["available_threads", "in_turn"]

_AHEAD: Final = 4
"""Results made before they are asked for: enough to keep the threads busy, few enough to bound memory."""

A = TypeVar("A")
B = TypeVar("B")


def available_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_turn(pool: Executor, make: Callable[[A], B], inputs: Iterable[A]) -> Iterator[B]:
    """What `make` gives for each input, in their order, a few of them ahead."""
    ahead: deque[Future[B]] = deque()
    for given in inputs:
        ahead.append(pool.submit(make, given))
        if len(ahead) > _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
