"""The time of each form of the SSD by length: where they cross, and whether the chunked form is linear.

``python -m benchmarks.ssd [--quick] [--json]``. Forward and backward passes at the published sizes (8 heads of width
64, one group per head, state 64), with a batch of `--rows`, on CUDA if available. All run in one process and take
turns. `slope` is the exponent of the chunked form's time as a function of the length (least squares on logarithms); 1
is linear. `crossing` is the smallest measured length from which the chunked form is always faster than the quadratic
one (0: none). With more rows, the longest tensors exceed the size from which the C library requests new pages for each
tensor, and `slope` includes that cost. A form is left out at lengths where its matrices or its loop would dominate.
"""

import math
import statistics
import time
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import arguments, measured, show
from mmm4rec.config import SSDForm
from mmm4rec.errors import ConfigError
from mmm4rec.model.ssd import CHUNK, choose, ssd

HEADS, WIDTH, STATE = 8, 64, 64
LENGTHS = [2**n for n in range(6, 14)]
LONGEST: dict[SSDForm, int] = {"sequential": 256, "quadratic": 1024, "chunked": LENGTHS[-1], "triton": LENGTHS[-1]}


def main() -> None:
    """Measure, fit the slope, print."""
    given = arguments(__doc__ or "", rows=1, turns=5, threads=0)
    lengths = LENGTHS[:4] if given.quick else LENGTHS
    rows, turns = given.rows, 2 if given.quick else given.turns
    found = measured(_times, lengths, rows, turns, given.threads).result
    seconds: dict[str, dict[int, float]] = found["seconds"]
    chunked, quadratic = seconds["chunked"], seconds["quadratic"]
    # Up to the length of one chunk, both forms are the same computation.
    slower = [n for n in quadratic if n <= CHUNK or quadratic[n] <= chunked[n]]
    crossing = next((n for n in quadratic if n > max(slower)), 0)
    figures: dict[str, float | int | str] = {
        "slope": slope(chunked),
        "crossing": crossing,
        "positions_per_second": rows * lengths[-1] / chunked[lengths[-1]],
        "shortest": lengths[0],
        "longest": lengths[-1],
        "rows": rows,
        "device": found["device"],
    }
    for form, times in seconds.items():
        figures |= {f"{form}_ms_{length}": value * 1e3 for length, value in times.items()}
    if given.json:
        show("", figures, as_json=True)
        return
    _show(seconds, lengths, rows, found["device"])
    head = {name: figures[name] for name in list(figures)[:3]}
    show(f"chunked form, {lengths[0]} to {lengths[-1]:,} positions", head, as_json=False)


def slope(seconds: dict[int, float]) -> float:
    """The exponent of the time as a function of the length."""
    logs = [(math.log(length), math.log(value)) for length, value in seconds.items()]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def _times(lengths: list[int], rows: int, turns: int, threads: int) -> dict[str, Any]:
    """Median seconds by form and length. All lengths take turns, so that a busy machine slows them equally."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forms = [form for form in LONGEST if _runs(form, device)]
    runs = [(form, length) for form in forms for length in lengths if length <= LONGEST[form]]
    taken: dict[tuple[SSDForm, int], list[float]] = {run: [] for run in runs}
    for turn in range(turns + 1):
        for form, length in runs:
            seconds = _step(form, length, rows, device)
            if turn > 0:  # the first turn is a warm-up
                taken[form, length].append(seconds)
    medians = {
        form: {length: statistics.median(taken[form, length]) for f, length in runs if f == form} for form in forms
    }
    return {"seconds": medians, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}


def _runs(form: SSDForm, device: torch.device) -> bool:
    try:
        choose(1, form, device)
    except ConfigError:
        return False
    return True


def _step(form: SSDForm, length: int, rows: int, device: torch.device) -> float:
    """Seconds for one forward and one backward pass."""
    random = torch.Generator(device).manual_seed(length)
    shapes = [(rows, length, HEADS, WIDTH), (rows, length, HEADS), (HEADS,)] + 2 * [(rows, length, HEADS, STATE)]
    x, delta, A, B, C = (torch.randn(shape, generator=random, device=device) for shape in shapes)
    # Steps and decays of the size in a trained model: delta below 0.1, A between -16 and -1.
    tensors = [m.requires_grad_() for m in (x, delta.sigmoid() / 10, -(1 + 15 * A.sigmoid()), B, C)]
    gradient = torch.ones_like(x)
    _wait(device)
    start = time.perf_counter()
    ssd(*tensors, form=form).backward(gradient)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _show(seconds: dict[str, dict[int, float]], lengths: list[int], rows: int, device: str) -> None:
    title = f"ms for a forward and backward pass of {rows} x the length, {HEADS} heads, on {device}"
    table = Table("positions", *seconds, "chosen", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for length in lengths:
        cells = [f"{times[length] * 1e3:,.3g}" if length in times else "" for times in seconds.values()]
        table.add_row(f"{length:,}", *cells, choose(length, device="cpu" if device == "cpu" else "cuda").form)
    Console().print(table)


if __name__ == "__main__":
    main()
