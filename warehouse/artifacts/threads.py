"""The cores of this process, and work that is shared among threads, with results in the order of the inputs."""

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
    """The cores that this process may use. These may be fewer than the machine has (taskset, Slurm)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(pool: Executor, make: Callable[[A], B], inputs: Iterable[A], ahead: int = _AHEAD) -> Iterator[B]:
    """The result of `make` for each input, in order. At most `ahead` results are made before they are requested."""
    coming: deque[Future[B]] = deque()
    for given in inputs:
        coming.append(pool.submit(make, given))
        if len(coming) > ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
