"""Dagster's storage on PostgreSQL, by the change of dagster.yaml that docs/operations.md shows."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Cli
from tests.pipelines.small import write_shop

pytestmark = pytest.mark.long

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
"""Debian's places."""


@pytest.fixture
def postgres() -> Iterator[str]:
    """A server on loopback, in a folder of its own, as a user without rights; its address."""
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed")
    if not SERVERS:
        pytest.skip("Debian's package postgresql is not installed")
    # Not below pytest's folder, which no other user may enter.
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
    if user:
        shutil.chown(folder, user)

    def call(program: str, *arguments: str) -> None:
        command = [str(SERVERS[-1].parent / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    try:
        call("initdb", "-U", "dagster", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


ASKED = """
import dagster as dg
with dg.DagsterInstance.get() as instance:
    print(type(instance.event_log_storage).__name__, [run.status.value for run in instance.get_runs()])
    print(len(instance.all_asset_keys()), instance.get_dynamic_partitions("domain"))
"""


def test_by_one_change(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = re.search(r"```yaml\n(storage:\n  postgres:.*?)```", _docs(), re.DOTALL)
    assert documented
    shipped = (REPOSITORY / "dagster.yaml").read_text()
    changed, count = re.subn(r"(?m)^storage:\n(?:  .*\n)+", documented[1], shipped)
    assert count == 1
    (tmp_path / "dagster.yaml").write_text(changed)
    data = tmp_path / "data"
    for name, value in {
        "MMM4REC_DAGSTER_HOME": tmp_path,
        "DAGSTER_HOME": tmp_path,
        "MMM4REC_DAGSTER": data / ".dagster",
        "MMM4REC_POSTGRES": postgres,
    }.items():
        monkeypatch.setenv(name, str(value))
    write_shop(data, "Toys")
    Cli(data)("run", "--only", "raw/ratings", "--only", "raw/metadata")
    asked = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=False)
    assert asked.stdout == "PostgresEventLogStorage ['SUCCESS']\n2 ['Toys']\n", asked.stderr
    assert not list((data / ".dagster").rglob("*.db"))


def _docs() -> str:
    return (REPOSITORY / "docs/operations.md").read_text()
