"""The cores of this process, and work shared out among threads, its results in the order of what was asked for."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Final, TypeVar

__all__ = ["available_cores", "map_in_order"]

_AHEAD: Final = 4
"""Results made before they are asked for: enough to keep the threads busy, few enough to bound memory."""

A = TypeVar("A")
B = TypeVar("B")


def available_cores() -> int:
    """The cores that this process may use: not all of the machine, where it was given some of them (taskset, Slurm)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(pool: Executor, make: Callable[[A], B], inputs: Iterable[A], ahead: int = _AHEAD) -> Iterator[B]:
    """What `make` gives for each input, in their order; at most `ahead` are made before they are asked for."""
    coming: deque[Future[B]] = deque()
    for given in inputs:
        coming.append(pool.submit(make, given))
        if len(coming) > ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
