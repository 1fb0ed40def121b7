"""`mmm4rec push` takes a data folder into a bucket, and `mmm4rec pull` brings tables and a catalogue from there."""

import gc
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest

from pipelines import buckets
from pipelines.data_folder.folder import STORE_CACHE, STORE_VARIABLE, DataFolder
from pipelines.errors import CommandError
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from tests.pipelines.test_bucket import KEYS, SHOWN, _run, _stale
from tests.warehouse.disturb import small_disk
from tests.warehouse.stores import Place, bucket, make, server
from tests.warehouse.test_bucket_faults import DeadError
from tests.warehouse.work import write_raw
from warehouse.artifacts.errors import DamagedError, StoreError
from warehouse.artifacts.objects import layout
from warehouse.artifacts.opened import open_bucket

pytestmark = pytest.mark.long

__all__ = ["bucket", "server"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two domains that were built in the folder, with a catalogue."""
    data = tmp_path_factory.mktemp("built") / "data"
    write_shop(data, "Toys", "Mugs")
    _run(data, SHOWN)
    return data


@pytest.fixture
def shop(built: Path, tmp_path: Path) -> Path:
    """A copy of it, with a catalogue of its own."""
    data = tmp_path / "shop"
    shutil.copytree(built, data)
    _run(data, SHOWN)
    return data


@pytest.fixture
def pushed(built: Path, bucket: Place) -> Place:
    """A bucket with its artifacts."""
    buckets.push(DataFolder(built), bucket.address)
    return bucket


def _ask(data: Path, sql: str) -> list[Any]:
    """The answer of a DuckDB that knows nothing of this project, in another process and folder."""
    with _notebook(data, sql) as answer:
        return answer()


@contextmanager
def _notebook(data: Path, sql: str) -> Iterator[Callable[[], list[Any]]]:
    """A process that has the catalogue open; its answer is asked for later."""
    code = (
        "import duckdb, json, sys\n"
        "opened = duckdb.connect(sys.argv[1], read_only=True)\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(json.dumps(opened.sql(sys.argv[2]).fetchall(), default=str))"
    )
    call = [sys.executable, "-I", "-c", code, str(data / "warehouse.duckdb"), sql]
    with subprocess.Popen(call, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"

        def answer() -> list[Any]:
            found: list[Any] = json.loads(process.communicate("\n")[0])
            return found

        yield answer


# push


def test_a_pushed_folder_is_up_to_date_in_the_bucket(
    shop: Path, bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {artifact.ref: artifact.version for artifact in DataFolder(shop).store.all_current()}
    cli = Cli(shop)
    cli("pin", "core/items@Toys")
    said = cli("push", bucket.address, "--dry-run").stdout
    assert "would be sent: 10 versions" in said
    assert bucket.open().versions() == {}
    said = cli("push", bucket.address).stdout
    assert "sent: 10 versions" in said
    assert "set: 1 pins; current from now on: 10 artifacts" in said
    assert said.splitlines()[-1] == f"store: {bucket.address}"
    again = json.loads(cli("push", bucket.address, "--json").stdout)
    assert (again["versions"], again["there"], again["bytes"]) == (0, 10, 0)
    with (shop / "domains.yaml").open("a") as settings:
        settings.write(f"{said.splitlines()[-1]}\n")
    assert _stale(shop, SHOWN) == ["warehouse/catalogue"]  # it names the files in the folder
    assert _stale(shop) == []
    for layer in ("raw", "core"):
        shutil.rmtree(shop / layer)
    _run(shop, SHOWN)
    now = {artifact.ref: artifact.version for artifact in DataFolder(shop).store.all_current()}
    assert {ref: now[ref] for ref in before if not ref.startswith("warehouse/")} == {
        ref: version for ref, version in before.items() if not ref.startswith("warehouse/")
    }
    assert DataFolder(shop).store.marked("pin") == [("core/items", "Toys", now["core/items@Toys"])]
    assert "10 versions hashed" not in cli("verify", "--all").stdout  # and the catalogue
    assert json.loads(cli("sql", "SELECT DISTINCT domain FROM core.items ORDER BY ALL", "--json").stdout) == [
        {"domain": "Mugs"}, {"domain": "Toys"}
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["elsewhere", "http://host/x", "s3://user:secret@host/x"])
def test_no_address_is_one_error(shop: Path, place: str) -> None:
    refused = Cli(shop)("push", place, code=1)
    assert "write s3://bucket/prefix" in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr


# pull


def test_everything_is_pulled_beside_a_catalogue_and_nothing_twice(pushed: Place, built: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "analyst")
    said = cli("pull", pushed.address).stdout
    assert "shows the tables of 10 artifacts" in said
    for question in ("FROM domains", "FROM core.sequences", "SELECT * EXCLUDE (rated_at) FROM core.interactions"):
        assert _ask(cli.data, f"SELECT x FROM ({question}) AS x ORDER BY ALL") == _ask(
            built, f"SELECT x FROM ({question}) AS x ORDER BY ALL"
        )
    assert _ask(cli.data, "SELECT in_its_folder FROM lineage.place") == [[True]]
    assert "Toys" in cli("sql", "FROM domains").stdout
    files = sorted(cli.data.rglob("*.parquet"))
    assert {path.stat().st_mode & 0o222 for path in files} == {0}
    written = (cli.data / "warehouse.duckdb").stat().st_ino
    assert pushed.server
    pushed.server.tell(forget=True)
    again = json.loads(cli("pull", pushed.address, "--json").stdout)
    assert again["fetched"] == {"files": 0, "bytes": 0, "there": len(files)}
    assert (cli.data / "warehouse.duckdb").stat().st_ino == written
    asked = pushed.server.tell()["seen"]
    assert [line for line in asked if not line.startswith(("GET", "HEAD"))] == []
    assert [line for line in asked if line.startswith("GET") and "/files/" in line] == []


def test_a_second_pull_brings_what_has_changed(pushed: Place, shop: Path, tmp_path: Path) -> None:
    analyst = DataFolder(tmp_path / "analyst")
    first = buckets.pull(analyst, pushed.address)
    items = "SELECT item_id, title FROM core.items WHERE domain = 'Toys' ORDER BY ALL"
    before = _ask(analyst.path, items)
    write_raw(shop / "raw_files", "Toys", 1)
    _run(shop, SHOWN)
    buckets.push(DataFolder(shop), pushed.address)
    second = buckets.pull(analyst, pushed.address)
    assert 0 < second.fetched.files < first.fetched.files
    assert second.fetched.files + second.fetched.there == first.fetched.files
    assert _ask(analyst.path, items) == _ask(shop, items) != before
    versions = "SELECT count(*) FROM lineage.versions WHERE key = 'raw/metadata' AND domain = 'Toys'"
    assert _ask(analyst.path, versions) == [[2]]


def test_what_was_not_asked_for_is_absent_and_lineage_is_complete(pushed: Place, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "analyst")
    cli("pull", pushed.address, "--domain", "Toys", "--layer", "core")
    assert {path.parts[-5] for path in cli.data.rglob("*.parquet")} == {"core"}
    assert _ask(cli.data, "SELECT DISTINCT domain FROM core.items") == [["Toys"]]
    assert _ask(cli.data, "SELECT domain FROM domains") == [["Toys"]]
    schemas = _ask(cli.data, "SELECT DISTINCT schema_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL")
    assert schemas == [["core"], ["lineage"], ["main"]]
    # These views would be incomplete without the tables of raw.
    names = {name for (name,) in _ask(cli.data, "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main'")}
    assert {"quarantine", "rejected"} & names == set()
    shown = _ask(cli.data, "SELECT key, domain FROM lineage.artifacts WHERE shown ORDER BY ALL")
    assert shown == [[f"core/{noun}", "Toys"] for noun in ("interactions", "items", "sequences")]
    assert _ask(cli.data, "SELECT count(*) FROM lineage.artifacts") == [[10]]
    up = _ask(cli.data, "SELECT DISTINCT key, current FROM lineage.upstream('core/sequences', domain := 'Toys')")
    assert sorted(up) == [[key, True] for key in sorted(KEYS)]
    cli("pull", pushed.address, "--domain", "Toys")
    reasons = _ask(cli.data, "SELECT DISTINCT domain FROM rejected")
    assert reasons in ([["Toys"]], [])
    refused = cli("sql", "FROM features.item_text", code=1)
    assert "item_text" in refused.stderr


def test_a_wider_and_a_narrower_pull_share_files(pushed: Place, tmp_path: Path) -> None:
    analyst = DataFolder(tmp_path / "analyst")
    narrow = buckets.pull(analyst, pushed.address, ["Toys"], ["core"])
    wide = buckets.pull(analyst, pushed.address)
    assert wide.fetched.there == narrow.fetched.files
    again = buckets.pull(analyst, pushed.address, ["Toys"], ["core"])
    assert again.fetched.files == 0
    assert _ask(analyst.path, "SELECT DISTINCT domain FROM core.items") == [["Toys"]]


def test_killed_at_every_download_it_continues(pushed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyst, brought, deaths = DataFolder(tmp_path / "analyst"), 0, 0
    real = obstore.get
    while True:
        left = itertools.count(1)

        def get(store: Any, key: str, left: Iterator[int] = left) -> Any:
            if key.startswith(layout.FILES) and next(left) >= 3:
                raise DeadError  # and what is dead sends no more
            return real(store, key)

        with monkeypatch.context() as patch:
            patch.setattr(obstore, "get", get)
            try:
                found = buckets.pull(DataFolder(analyst.path), pushed.address)
            except DeadError:
                assert not analyst.catalogue.exists()
                now = len(list(analyst.path.rglob("*.parquet")))
                assert now == brought + 2
                brought, deaths = now, deaths + 1
                continue
            break
    assert deaths > 3
    assert found.fetched.there == brought
    assert found.fetched.files <= 2
    assert _ask(analyst.path, "SELECT count(DISTINCT domain) FROM core.items") == [[2]]


def test_an_open_catalogue_keeps_its_files_whatever_is_pulled_next(
    pushed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook has a catalogue open, and the cache has room for nothing that nobody uses."""

    def bucket(self: DataFolder, address: str, cache: Path | None = None) -> Any:
        return open_bucket(address, self.path, self.cache / STORE_CACHE, limit=1)

    def pull(domain: str) -> None:
        buckets.pull(DataFolder(analyst), pushed.address, [domain])
        gc.collect()  # this process holds what it was given no longer

    monkeypatch.setattr(DataFolder, "bucket", bucket)
    analyst = tmp_path / "analyst"
    pull("Toys")
    files = sorted(analyst.rglob("*.parquet"))
    sql = "SELECT domain, count(*) FROM core.interactions GROUP BY ALL"
    expected = _ask(analyst, sql)
    with _notebook(analyst, sql) as answer:
        pull("Mugs")
        next(analyst.rglob("domain=Mugs/*/sequences.parquet")).unlink()
        pull("Mugs")  # which needs room
        assert set(files) < set(analyst.rglob("*.parquet"))
        assert answer() == expected
    next(analyst.rglob("domain=Mugs/*/sequences.parquet")).unlink()
    pull("Mugs")
    assert not any(path.exists() for path in files)
    assert _ask(analyst, sql)[0][0] == "Mugs"


def test_who_may_only_read_pulls(pushed: Place, tmp_path: Path) -> None:
    assert pushed.server
    pushed.server.tell(faults=[{"kind": 403, "left": 1000, "match": "^(PUT|POST|DELETE)"}])
    found = buckets.pull(DataFolder(tmp_path / "analyst"), pushed.address)
    assert found.fetched.files > 0


# Bad input


def test_names_that_are_not_there_are_one_error(pushed: Place, tmp_path: Path) -> None:
    analyst = DataFolder(tmp_path / "analyst")
    with pytest.raises(CommandError, match=r"no tables of the domain 'Pots'; there are Mugs, Toys"):
        buckets.pull(analyst, pushed.address, ["Pots"])
    with pytest.raises(CommandError, match=r"no tables of the layer 'cores'; there are core, raw"):
        buckets.pull(analyst, pushed.address, ["Toys"], ["cores"])
    with pytest.raises(CommandError, match=r"no bucket to pull from: name it.*store: s3://bucket/prefix"):
        buckets.pull(analyst)
    with pytest.raises(CommandError, match=r"there is no store at s3://.*/nothing: correct the address"):
        buckets.pull(analyst, f"{pushed.address}/nothing")
    assert not analyst.catalogue.exists()


def test_a_folder_that_shows_something_else_is_not_touched(
    pushed: Place, shop: Path, bucket: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (shop / "warehouse.duckdb").stat().st_ino
    with pytest.raises(CommandError, match="has artifacts of its own"):
        buckets.pull(DataFolder(shop), pushed.address)
    other = Place("bucket", tmp_path, f"{pushed.address}-other", pushed.server)
    make(other.open(), "core/items", "1")
    buckets.pull(DataFolder(tmp_path / "analyst"), pushed.address)
    with pytest.raises(StoreError, match=r"holds files of another store .*delete that folder"):
        buckets.pull(DataFolder(tmp_path / "analyst"), other.address)
    monkeypatch.setenv(STORE_VARIABLE, other.address)
    with pytest.raises(CommandError, match=r"works with s3://.*-other: choose another --data"):
        buckets.pull(DataFolder(shop), pushed.address)
    assert (shop / "warehouse.duckdb").stat().st_ino == before


def test_a_full_disk_leaves_what_was_shown(pushed: Place, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        analyst = DataFolder(disk.folder / "data")
        buckets.pull(analyst, pushed.address, ["Toys"], ["raw"])
        disk.leave(20_000)
        with pytest.raises(StoreError, match=r"no space left in .*cache/store while (fetching|building)"):
            buckets.pull(DataFolder(analyst.path), pushed.address)
        assert _ask(analyst.path, "SELECT DISTINCT domain FROM raw.ratings") == [["Toys"]]
        disk.free()
        buckets.pull(DataFolder(analyst.path), pushed.address)
        assert _ask(analyst.path, "SELECT count(DISTINCT domain) FROM core.items") == [[2]]


def test_missing_objects_name_what_deletes_them(pushed: Place, tmp_path: Path) -> None:
    """As a lifecycle rule that deletes objects leaves a bucket."""
    store = pushed.open()
    made = store.require("raw/ratings", "Toys")
    found = buckets.pull(DataFolder(tmp_path / "one"), pushed.address)
    pushed.put(made, "ratings.parquet", None)
    found = buckets.pull(DataFolder(tmp_path / "two"), pushed.address)
    assert [artifact.domain for artifact in found.shown if artifact.key == "raw/ratings"] == ["Mugs"]
    (why,) = found.damaged
    assert "lifecycle rule" in why
    with pytest.raises(DamagedError, match=r"ratings.parquet is missing.*lifecycle rule"):
        made.file("ratings.parquet")


@pytest.mark.parametrize("command", ["push", "pull"])
def test_buckets_that_cannot_be_used_are_one_line(command: str, shop: Path, bucket: Place, tmp_path: Path) -> None:
    assert bucket.server
    data = shop if command == "push" else tmp_path / "analyst"
    cli = Cli(data)
    refused = cli(command, "s3://no-such-bucket/x", code=1)
    assert "no bucket no-such-bucket: create it, or correct the address s3://no-such-bucket/x" in refused.stderr
    bucket.server.tell(faults=[{"kind": 403, "left": 1000}])
    refused = cli(command, bucket.address, code=1)
    assert f"{bucket.address} refuses" in refused.stderr
    assert "credentials" in refused.stderr
    bucket.server.tell(faults=[{"kind": 403, "code": "RequestTimeTooSkewed", "left": 1000}])
    refused = cli(command, bucket.address, code=1)
    assert "the clock of this machine" in refused.stderr
    bucket.server.tell(faults=[])
    bucket.open().client.write(layout.STORE, b'{"format": 99}')
    refused = cli(command, bucket.address, code=1)
    assert "has the format 99" in refused.stderr
    assert "update this one" in refused.stderr
    assert "Traceback" not in refused.stderr
