"""The environment that makes artifacts: versions of Python and packages, the project's commit, device and processor.

It is determined once per process, without importing packages. A manifest stores it as `manifest.Environment`.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from warehouse.artifacts.manifest import Environment

__all__ = ["PACKAGES", "watch"]

PACKAGES: Final = ("torch", "duckdb", "pyarrow", "transformers", "sentence-transformers")
"""The packages whose versions are recorded."""
_CODE: Final = ("warehouse", "features", "mmm4rec", "pipelines")
_CPU: Final = "cpu"
_UNKNOWN: Final = "unknown"
_PATIENCE: Final = 2.0
"""Seconds that git may take."""


def watch() -> Callable[[], Environment]:
    """Start to watch a build. Call the returned function at the end of the build to get its environment."""
    # Now, and not at the end: in the hours of a training somebody may commit, or change what has been loaded.
    lasting, before = _lasting(), _allocations()
    return lambda: msgspec.structs.replace(lasting, device=_used(before))


@cache
def _lasting() -> Environment:
    """What stays the same as long as the process lives."""
    commit, clean = _commit(Path(__file__).parents[2])
    return Environment(
        python=platform.python_version(),
        packages=_packages(),
        git_commit=commit,
        git_clean=clean,
        device=_CPU,
        processor=_processor(),
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out at `root`, and whether the code there is as it has it."""
    # Asked first, since git looks in the folders above as well: an installed package would be told the commit of
    # whatever project its environment lies in.
    if not (root / ".git").exists():
        return None, None
    # Only the code: a data folder beside it makes nothing of it another. No monitor of files, which could be any
    # command; no locks, which could be in the way of a person's own git.
    command = "git -c core.fsmonitor=false status --porcelain=v2 --branch --no-ahead-behind --untracked-files=normal --"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        output = subprocess.run(
            [*command.split(), *_CODE],
            cwd=root,
            env=inherited | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None, None
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", output, re.MULTILINE)
    if commit is None:  # nothing has been committed
        return None, None
    return commit[1], all(line.startswith("#") for line in output.splitlines())


def _processor() -> str:
    """The processor's name as Linux tells it, else its architecture. `platform.processor` would start a process."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.machine()


def _cuda() -> Any:
    """torch.cuda, if this process has begun to use it; torch is not imported to find out."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _allocations() -> dict[int, int] | None:
    """How often memory of each CUDA device has been asked for since the process began: numbers that only grow.

    None where torch cannot tell; what a long training has made is not lost for that.
    """
    cuda, key = _cuda(), "allocation.all.allocated"
    try:
        return {number: cuda.memory_stats(number).get(key, 0) for number in range(cuda.device_count())} if cuda else {}
    except RuntimeError:
        return None


def _used(before: dict[int, int] | None) -> str:
    """The names of the devices that something has been put on since: a process may use one for some builds only."""
    after = _allocations()
    if before is None or after is None:
        return _UNKNOWN
    used = [number for number, count in after.items() if count > before.get(number, 0)]
    return ", ".join(sorted({str(_cuda().get_device_name(number)) for number in used})) or _CPU
