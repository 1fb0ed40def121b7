"""Fixtures shared by every room's tests: the real data, the command line, and the demo as a newcomer runs it."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forked

REPOSITORY = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: threads beside them would spin at barriers, waiting for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


LEFT_OUT = pytest.StashKey[Counter[str]]()
LEFT_OUT_BY = {"long": "make test-all", "soak": "make soak"}
"""The markers of what a run may leave out, and the command that runs it."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, and pytest the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests over one whole run stay in one worker, so that it runs once; the others keep to their file's fixtures.

    The longest come first: what one worker does alone at the end, nobody helps it with.
    """
    groups = {}
    for item in items:
        runs = {"demo", "tiny"} & set(getattr(item, "fixturenames", ()))
        groups[item] = min(runs, default=str(item.path))
        item.add_marker(pytest.mark.xdist_group(groups[item]))
        if "demo" in runs:
            # Whichever of them comes first waits for the whole demo.
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.timeout(2700))
    items.sort(key=lambda item: ["demo", "tiny", groups[item]].index(groups[item]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Long tests run whole pipelines; the short ones share one run."""
    if any(item.get_closest_marker("long") for item in session.items):
        forked.PRELOADED.append(forked.ENCODING)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what this run leaves out."""
    for item in items:
        marker = next((marker for marker in reversed(LEFT_OUT_BY) if item.get_closest_marker(marker)), None)
        if marker:
            item.config.stash.setdefault(LEFT_OUT, Counter())[marker] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells its count to the process that reports."""
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["left_out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker has collected the same tests, so one count is the count of all."""
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out, and which command runs it."""
    for marker, count in sorted(config.stash.get(LEFT_OUT, {}).items()):
        if f"not {marker}" in config.option.markexpr:  # and not by its name
            terminalreporter.write_line(f"left out: {count} tests marked {marker}; `{LEFT_OUT_BY[marker]}` runs them")


@pytest.fixture(scope="session", autouse=True)
def _a_hang_up_is_heard() -> Iterator[None]:
    """Processes that tests start have SIGHUP at its default, also where the tests run under nohup.

    nohup has SIGHUP ignored, which every process inherits, and our commands leave it so: tests that end them by SIGHUP
    would wait in vain. A handler that does nothing is not inherited by a program that is started, and keeps what nohup
    is for: the tests themselves go on after a hang-up.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    yield
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real data (`data/`) and reference tensors (`parity/`), named by MMM4REC_SHARED."""
    folder = os.environ.get("MMM4REC_SHARED")
    if not folder:
        pytest.skip("MMM4REC_SHARED is not set: the real data and the reference tensors are not at hand")
    return Path(folder)


@dataclass(frozen=True)
class Cli:
    """`mmm4rec` as a person calls it: a process of its own over one data folder."""

    data: Path
    columns: int = 200
    """Of its terminal."""

    def __call__(self, *arguments: str, code: int = 0, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run it, expect the exit code, return what it printed."""
        done = forked.run(
            arguments, {**os.environ, "MMM4REC_DATA": str(self.data), "COLUMNS": str(self.columns)}, timeout
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line over an empty data folder."""
    return Cli(tmp_path / "data")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line over the data of a whole `make demo`."""
    data = tmp_path_factory.mktemp("demo")
    made = make_demo(data)
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    return Cli(data)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line over one source and two targets of the tiny sample, all assets built, models hardly trained."""
    tiny = Cli(tmp_path_factory.mktemp("tiny"))
    tiny("sample", "--size", "tiny")
    path = tiny.data / "domains.yaml"
    settings = yaml.safe_load(path.read_text())
    for training in ("pretraining", "finetuning"):
        settings[training]["epochs"] = 1
    for domain in ("Sample_Garden", "Sample_Sports"):
        del settings["domains"][domain]
        for raw_file in (tiny.data / "raw_files").glob(f"*{domain}*"):
            raw_file.unlink()
    path.write_text(yaml.safe_dump(settings))
    tiny("run")
    return tiny


def make_demo(data: Path) -> subprocess.CompletedProcess[str]:
    """`make demo` over a data folder."""
    return subprocess.run(
        ["make", "demo", f"DATA={data}"],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )
