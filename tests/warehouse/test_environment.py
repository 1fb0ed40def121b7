"""What makes artifacts: asked once, quickly, of nothing that is loaded for it, and nothing private."""

import getpass
import importlib.metadata
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import msgspec
import pytest

from tests.conftest import REPOSITORY
from warehouse.artifacts import environment
from warehouse.artifacts.environment import PACKAGES, watch


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    environment._lasting.cache_clear()
    yield
    environment._lasting.cache_clear()


def _git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with one commit."""
    root = tmp_path / "project"
    (root / "warehouse").mkdir(parents=True)
    (root / "warehouse" / "store.py").write_text("x = 1\n")
    _git(root, "init", "--quiet")
    _git(root, "add", ".")
    _git(root, "commit", "--quiet", "--message", "begin")
    return root


def test_versions_of_what_is_installed() -> None:
    found = watch()()
    assert found.python == platform.python_version()
    assert found.packages["duckdb"] == duckdb.__version__
    assert found.packages == {name: importlib.metadata.version(name) for name in PACKAGES}
    assert found.processor


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("duckdb", "no-such-package"))
    assert watch()().packages == {"duckdb": duckdb.__version__}


def test_nothing_is_loaded_to_find_out() -> None:
    asked = "import sys; from warehouse.artifacts.environment import watch; watch()(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert not {"torch", "duckdb", "transformers", "sentence_transformers"} & {*done.stdout.split()}


def test_nothing_in_it_is_private() -> None:
    found = watch()()
    text = msgspec.json.encode(found).decode()
    for private in (socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"\b{re.escape(private)}\b", text)
    assert "/" not in text.replace(found.processor, ""), "a path"


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: calls.append(words) or run(*words, **more))
    assert watch()() == watch()() == watch()()
    assert len(calls) == (REPOSITORY / ".git").exists()


# The commit


def test_the_commit_and_whether_the_code_is_as_it_has_it(checkout: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD").strip()
    assert environment._commit(checkout) == (commit, True)
    (checkout / "data").mkdir()
    (checkout / "data" / "domains.yaml").write_text("")
    assert environment._commit(checkout) == (commit, True), "data beside the code are no change of it"
    (checkout / "warehouse" / "new.py").write_text("")
    assert environment._commit(checkout) == (commit, False)
    (checkout / "warehouse" / "new.py").unlink()
    (checkout / "warehouse" / "store.py").write_text("x = 2\n")
    assert environment._commit(checkout) == (commit, False)
    _git(checkout, "add", ".")
    assert environment._commit(checkout) == (commit, False)


def test_a_worktree_has_a_commit_of_its_own(checkout: Path, tmp_path: Path) -> None:
    _git(checkout, "worktree", "add", "--quiet", str(tmp_path / "beside"))
    _git(tmp_path / "beside", "commit", "--quiet", "--allow-empty", "--message", "go on")
    assert environment._commit(tmp_path / "beside")[0] == _git(tmp_path / "beside", "rev-parse", "HEAD").strip()
    assert environment._commit(tmp_path / "beside") != environment._commit(checkout)


def test_code_that_is_installed_is_no_checkout_of_what_lies_around_it(checkout: Path) -> None:
    installed = checkout / ".venv" / "site-packages"
    (installed / "warehouse").mkdir(parents=True)
    assert environment._commit(installed) == (None, None)


def test_a_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    assert environment._commit(tmp_path) == (None, None)


def test_a_damaged_checkout_has_none(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert environment._commit(checkout) == (None, None)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._commit(checkout) == (None, None)


def test_a_git_that_hangs_is_not_waited_for(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "git"
    slow.write_text(f"#!{sys.executable} -S\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "_PATIENCE", 0.2)
    begin = time.monotonic()
    assert environment._commit(checkout) == (None, None)
    assert time.monotonic() - begin < 20


def test_what_a_hook_has_set_leads_to_no_other_repository(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = environment._commit(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert environment._commit(checkout) == found != (None, None)


def test_no_command_of_the_repository_is_run(checkout: Path, tmp_path: Path) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    spy.chmod(0o755)
    _git(checkout, "config", "core.fsmonitor", str(spy))
    assert environment._commit(checkout)[1] is True
    assert not (tmp_path / "called").exists()


# The device


class Cuda:
    """torch.cuda of two devices, as far as it is asked."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.fails = False

    def is_initialized(self) -> bool:
        return bool(self.counts)

    def device_count(self) -> int:
        return 2

    def memory_stats(self, number: int) -> dict[str, Any]:
        if self.fails:
            raise RuntimeError("the allocator does not count")
        return {"allocation.all.allocated": self.counts[number]} if number in self.counts else {}

    def get_device_name(self, number: int) -> str:
        return ("NVIDIA H100", "NVIDIA A100")[number]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_without_torch_it_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert watch()().device == "cpu"


def test_a_device_is_named_where_the_build_used_it(cuda: Cuda) -> None:
    first = watch()
    assert first().device == "cpu"
    cuda.counts = {0: 7}
    assert first().device == "NVIDIA H100"
    second = watch()
    assert second().device == "cpu", "used by an earlier build of the same process"
    cuda.counts = {0: 8, 1: 1}
    assert second().device == "NVIDIA A100, NVIDIA H100"


def test_a_device_that_cannot_be_told_loses_no_build(cuda: Cuda) -> None:
    cuda.counts = {0: 7}
    watching = watch()
    cuda.fails = True
    assert watching().device == watch()().device == "unknown"


@pytest.mark.long
def test_a_torch_without_gpu_is_the_processor() -> None:
    import torch

    made_by = watch()
    torch.zeros(3)
    assert torch.cuda.is_available() or made_by().device == "cpu"
