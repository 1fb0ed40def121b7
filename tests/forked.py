"""The command line in a process forked from one that has imported everything: imports would outlast most commands."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "pipelines.running.runs",
    "pipelines.reports.exhibits",
    "mmm4rec.training.fit",
    "lightning_fabric",
    "tests.forked",
]
"""Modules that the first process imports: what finds stale artifacts, runs, draws and trains."""
ENCODING = "sentence_transformers"
"""What encoders import when they are opened. It takes seconds, which are worth it where many tests encode."""


def run(arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """`mmm4rec` with these arguments, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start(arguments, environment, out, err)
        try:
            process.join(timeout)
            code = process.exitcode
        finally:
            process.kill()
            process.join()
        if code is None:
            raise subprocess.TimeoutExpired(["mmm4rec", *arguments], timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(["mmm4rec", *arguments], code, out.read_text(), err.read_text())


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    out: Path,
    err: Path,
    ignored: Sequence[signal.Signals] = (),
) -> BaseProcess:
    """`mmm4rec` with these arguments, which writes to those files; those signals are ignored as it starts."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(list(arguments), dict(environment), out, err, ignored))
    process.start()
    return process


def gone(pid: int) -> bool:
    """Whether there is no such process, or it only waits to be collected by whoever adopted it (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _main(
    arguments: list[str], environment: dict[str, str], out: Path, err: Path, ignored: Sequence[signal.Signals]
) -> None:
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["mmm4rec", *arguments]
    from pipelines.cli.app import main

    main()
