"""How the tests themselves run: one that hangs fails and holds up nobody, and a run says what it left out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long

HANGING = """
import threading, time

def waits_beside():
    time.sleep(1000)

def test_hangs():
    threading.Thread(target=waits_beside, daemon=True).start()
    time.sleep(1000)

def test_comes_after():
    pass
"""
DEAF = """
import signal, threading

def test_hears_no_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Event().wait()

def test_comes_after():
    pass
"""


def _pytest(*arguments: str | Path, cwd: Path = REPOSITORY) -> str:
    """What pytest says with the project's own settings."""
    command = [sys.executable, "-m", "pytest", "-c", REPOSITORY / "pyproject.toml", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "options", "shown"),
    [(HANGING, ["-o", "timeout=1"], "in waits_beside"), (DEAF, ["-o", "faulthandler_timeout=1"], "crashed while")],
    ids=["in Python", "where no signal arrives"],
)
def test_one_that_hangs_fails_with_its_stacks_and_the_next_one_runs(
    text: str, options: list[str], shown: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(text)
    said = _pytest("-n", "1", "--rootdir", tmp_path, *options, "test_it.py", cwd=tmp_path)
    assert shown in said
    assert "1 failed, 1 passed" in said


def test_a_run_says_what_it_left_out() -> None:
    said = _pytest("-n", "1", "--collect-only", "-m", "not long and not soak", "tests/test_readme.py")
    assert "tests marked long; `make test-all` runs them" in said
