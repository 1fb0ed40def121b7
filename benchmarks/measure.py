"""The common parts of all benchmarks: measuring a function in its own process, and printing figures."""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmm4rec.printable import plain

GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """One call: its wall time, the peak memory of its process, and its result."""

    seconds: float
    peak_rss_bytes: int
    result: Any

    @property
    def peak_rss_gib(self) -> float:
        """Peak resident memory in GiB."""
        return self.peak_rss_bytes / GIB


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a module-level function in a new process, so that no cache or memory of another call has an effect.

    The clock runs inside the process, so starting the process and its imports are not measured.

    Raises:
        RuntimeError: the process ended without a result; its own message is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        answer: Measured = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    return answer


def median(runs: Sequence[Measured]) -> float:
    """The median of the seconds."""
    return statistics.median(run.seconds for run in runs)


def arguments(description: str, **more: Any) -> argparse.Namespace:
    """The command line of a benchmark: --quick, --json, and the options `more` (name=default, an int or a string)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes: that it works, not how fast it is")
    parser.add_argument("--json", action="store_true", help="one flat JSON object")
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def show(title: str, figures: dict[str, float | int | str], as_json: bool) -> None:
    """Print figures as a table for people or as one flat JSON object."""
    if as_json:
        print(json.dumps(plain(figures), indent=1, allow_nan=False))
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for name, value in figures.items():
        table.add_row(
            name, f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        )
    Console().print(table)


def _call(sender: Any, function: Callable[..., Any], values: Sequence[Any]) -> None:
    start = time.perf_counter()
    result = function(*values)
    seconds = time.perf_counter() - start
    sender.send(Measured(seconds, _peak_rss(), result))
    sender.close()


def _peak_rss() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # unlike this value, ru_maxrss of a new process starts at that of its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
