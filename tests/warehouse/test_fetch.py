"""Fetching over a real server that misbehaves: right bytes or a clear error, and never asked for twice."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.web import Fault, Site
from warehouse.errors import DataError
from warehouse.raw.fetch import Fetched, MissingFileError, fetch_file, recorded

BODY = gzip.compress(random.Random(0).randbytes(400_000), mtime=0)
OTHER = gzip.compress(random.Random(1).randbytes(400_000), mtime=0)
CSV = b"B00005N7P0,AH2IFH762VY5U,5.0,1005177600\n" * 5000


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Site({"/m.json.gz": BODY, "/r.csv": CSV, "/changed": OTHER}) as site:
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "m.json.gz"


def _fetch(site: Site, target: Path, **more: object) -> Fetched:
    arguments: dict[str, object] = {"wait": 0.001, "timeout": 5.0, **more}
    return fetch_file(f"{site.url}/{target.name}", target, **arguments)  # type: ignore[arg-type]


def _left(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_a_file_is_fetched_counted_and_recorded(site: Site, target: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = _fetch(site, target, progress=lambda done, total: calls.append((done, total)))
    assert target.read_bytes() == BODY
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (found.bytes, found.resumed_from, found.attempts, found.kept) == (len(BODY), 0, 1, False)
    assert calls[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert _left(target) == {"m.json.gz", ".fetched"}
    record = json.loads((target.parent / ".fetched" / "m.json.gz.json").read_text())
    assert set(record) == {"url", "bytes", "sha256", "fetched", "etag", "last_modified"}
    assert record["url"] == f"{site.url}/m.json.gz"
    assert record["fetched"].endswith("+00:00")
    assert "mmm4rec" in (site.asked[0].agent or "")


def test_what_is_there_is_kept_and_force_fetches_anew(site: Site, target: Path) -> None:
    first = _fetch(site, target)
    again = _fetch(site, target)
    assert again.kept
    assert (again.sha256, again.fetched) == (first.sha256, first.fetched)
    assert len(site.asked) == 1
    site.files["/m.json.gz"] = OTHER
    assert not _fetch(site, target, force=True).kept
    assert target.read_bytes() == OTHER
    assert site.ranges == [None, None]
    target.write_bytes(BODY)
    with pytest.raises(DataError, match=r"not the file that was fetched.*--force"):
        _fetch(site, target)
    with pytest.raises(DataError, match="not the file that was asked for"):
        _fetch(site, target, sha256="0" * 64)


def test_a_file_put_there_by_hand_is_kept_if_it_is_whole(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY)
    kept = _fetch(site, target)
    assert (kept.kept, kept.url, kept.sha256) == (True, None, hashlib.sha256(BODY).hexdigest())
    assert recorded(target) is None
    target.write_bytes(BODY[:-9])
    with pytest.raises(DataError, match=r"was already there and is cut or damaged.*--force"):
        _fetch(site, target)
    assert site.asked == []


@pytest.mark.parametrize("kind", ["short", "reset"])
def test_what_breaks_off_goes_on(site: Site, target: Path, kind: str) -> None:
    site.faults = [Fault(kind, 200_000), Fault(kind, 100_000), Fault(kind, 0)]
    assert _fetch(site, target).attempts == 4
    assert target.read_bytes() == BODY
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in site.ranges[1:] if asked]
    if kind == "short":
        assert starts == [200_000, 300_000, 300_000]
    else:  # what was on its way is lost with the connection
        assert starts == sorted(starts)
    assert site.asked[-1].if_range or not starts


@pytest.mark.parametrize(
    "fault",
    [Fault("no ranges"), Fault("change"), Fault("blind"), Fault("wrong range"), Fault("wrong total")],
    ids=lambda fault: fault.kind,
)
def test_a_rest_that_does_not_fit_is_not_taken(site: Site, target: Path, fault: Fault) -> None:
    site.faults = [Fault("short", 200_000), fault]
    if fault.kind == "blind":
        site.faults[1:1] = [Fault("status", 503)]
        with pytest.raises(DataError, match="503"):
            _fetch(site, target, retries=1)
        site.files["/m.json.gz"] = OTHER
    found = _fetch(site, target)
    assert target.read_bytes() == site.files["/m.json.gz"]
    assert found.resumed_from == 0


def test_a_rest_may_come_in_pieces(site: Site, target: Path) -> None:
    site.faults = [Fault("short", 200_000), Fault("piece", 50_000)]
    _fetch(site, target)
    assert site.ranges == [None, "bytes=200000-", "bytes=250000-"]
    assert target.read_bytes() == BODY


def test_headway_is_no_failure(site: Site, target: Path) -> None:
    target = target.with_name("long.csv")
    site.files["/long.csv"] = CSV * 20
    site.faults = [Fault("short", 1_100_000), Fault("short", 1_100_000)]
    assert _fetch(site, target, retries=0).attempts == 3
    assert target.read_bytes() == CSV * 20


def test_a_part_of_another_address_is_not_gone_on_with(site: Site, target: Path) -> None:
    site.faults = [Fault("short", 200_000)]
    with pytest.raises(DataError, match="the first 200,000 bytes are kept"):
        _fetch(site, target, retries=0)
    site.files["/mirror.json.gz"] = BODY
    assert fetch_file(f"{site.url}/mirror.json.gz", target).resumed_from == 0
    assert site.ranges == [None, None]


def test_without_a_validator_nothing_is_joined(site: Site, target: Path) -> None:
    site.etag = False
    site.faults = [Fault("short", 200_000)]
    _fetch(site, target)
    assert site.ranges == [None, None]
    assert target.read_bytes() == BODY


def test_a_part_that_is_whole_already_is_only_finished(site: Site, target: Path) -> None:
    site.faults = [Fault("promise more", 100), Fault("status", 500)]
    with pytest.raises(DataError, match=f"the first {len(BODY):,} bytes are kept"):
        _fetch(site, target, retries=1)
    notes = target.with_name("m.json.gz.part.json")
    notes.write_text(notes.read_text().replace(str(len(BODY) + 100), str(len(BODY))))
    found = _fetch(site, target)
    assert (found.resumed_from, found.attempts) == (len(BODY), 1)
    assert target.read_bytes() == BODY


def test_a_416_for_another_length_starts_over(site: Site, target: Path) -> None:
    site.faults = [Fault("promise more", 100)]
    found = _fetch(site, target)
    assert site.ranges == [None, f"bytes={len(BODY)}-", None]
    assert (target.read_bytes(), found.attempts) == (BODY, 3)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
def test_what_cannot_pass_is_said_at_once(site: Site, target: Path, status: int) -> None:
    site.faults = [Fault("status", status)]
    with pytest.raises(DataError, match=rf"{site.url}/m\.json\.gz .*{status}.*--from") as raised:
        _fetch(site, target)
    assert isinstance(raised.value, MissingFileError) == (status in (404, 410))
    assert len(site.asked) == 1
    assert _left(target) == set()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_can_pass_is_tried_again_and_in_the_end_said(site: Site, target: Path, status: int) -> None:
    site.faults = [Fault("status", status)] * 2
    assert _fetch(site, target).attempts == 3
    site.faults = [Fault("status", status)] * 9
    with pytest.raises(DataError, match=rf"in 3 attempts: the server answered {status}"):
        _fetch(site, target, force=True, retries=2)
    assert target.read_bytes() == BODY


def test_the_server_says_when_to_come_back(site: Site, target: Path) -> None:
    site.faults = [Fault("busy", 1), Fault("busy until")]
    began = time.monotonic()
    assert _fetch(site, target).attempts == 3
    assert time.monotonic() - began >= 1


def test_a_silent_server_and_a_missing_one(site: Site, target: Path) -> None:
    site.faults = [Fault("stall", 131_072)]
    found = _fetch(site, target, timeout=1)
    assert found.attempts >= 2  # a busy machine may be silent once more
    assert target.read_bytes() == BODY
    site.__exit__()
    with pytest.raises(DataError, match=r"in 2 attempts: no connection \(ConnectionRefusedError"):
        _fetch(site, target, force=True, retries=1)
    site.__enter__()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("page"), "web page"),
        (Fault("page", 1), "web page"),
        (Fault("damage"), "damaged"),
        (Fault("promise less", 1000), "cut or damaged"),
    ],
    ids=str,
)
def test_what_is_no_raw_file_is_refused(site: Site, target: Path, fault: Fault, said: str) -> None:
    site.faults = [fault]
    with pytest.raises(DataError, match=said):
        _fetch(site, target)
    assert not target.exists()
    assert not _part(target).exists()
    _fetch(site, target)
    assert (site.ranges, target.read_bytes()) == ([None, None], BODY)


def test_a_page_costs_none_of_what_is_there(site: Site, target: Path) -> None:
    site.faults = [Fault("short", 200_000), Fault("page")]
    with pytest.raises(DataError, match="web page"):
        _fetch(site, target)
    assert _fetch(site, target).resumed_from == 200_000
    assert target.read_bytes() == BODY


def test_a_csv_is_no_web_page_not_empty_and_of_known_length(site: Site, target: Path) -> None:
    target = target.with_name("r.csv")
    for fault, said in ((Fault("page"), "web page"), (Fault("no length"), "without a length")):
        site.faults = [fault]
        with pytest.raises(DataError, match=said):
            _fetch(site, target)
    site.files["/r.csv"] = b""
    with pytest.raises(DataError, match="empty"):
        _fetch(site, target)
    assert _left(target) == set()
    site.files["/r.csv"] = CSV
    site.faults = [Fault("compressed")]
    with pytest.raises(DataError, match="compressed"):
        _fetch(site, target)
    site.faults = [Fault("chunks", 1), Fault("chunks")]  # the first breaks off
    assert _fetch(site, target).attempts == 2
    assert target.read_bytes() == CSV


def test_a_gz_that_is_declared_as_compressed_stays_one(site: Site, target: Path) -> None:
    site.faults = [Fault("compressed")]
    _fetch(site, target)
    assert target.read_bytes() == BODY


def test_the_sha256_asked_for(site: Site, target: Path) -> None:
    with pytest.raises(DataError, match="has the sha256"):
        _fetch(site, target, sha256="0" * 64)
    assert not target.exists()
    assert not _part(target).exists()
    _fetch(site, target, sha256=hashlib.sha256(BODY).hexdigest())


def test_redirects_lead_to_web_servers_only(site: Site, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(BODY)
    site.faults = [Fault("moved")] * 2
    site.files["/moved-to"] = f"file://{tmp_path / 'secret'}".encode()
    with pytest.raises(DataError, match="InvalidSchema"):
        _fetch(site, target)
    site.files["/moved-to"] = b"/m.json.gz?mirror=1"
    site.files["/m.json.gz?mirror=1"] = BODY
    site.faults = [Fault("moved")]
    assert _fetch(site, target).url == f"{site.url}/m.json.gz"


def test_a_login_is_used_and_never_shown(site: Site, target: Path) -> None:
    url = site.url.replace("http://", "http://me:secret@")
    site.faults = [Fault("status", 403)]
    with pytest.raises(DataError) as raised:
        fetch_file(f"{url}/m.json.gz", target)
    assert "secret" not in str(raised.value)
    found = fetch_file(f"{url}/m.json.gz", target)
    assert found.url == f"{site.url}/m.json.gz"


def test_files_of_other_file_systems(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "mirror" / "m.json.gz"
    source.parent.mkdir()
    source.write_bytes(BODY)
    assert fetch_file(f"file://{source}", target).sha256 == hashlib.sha256(BODY).hexdigest()
    with fsspec.open("memory://mirror/m.json.gz", "wb") as file:
        file.write(OTHER)
    assert fetch_file("memory://mirror/m.json.gz", target, force=True).url == "memory://mirror/m.json.gz"
    assert target.read_bytes() == OTHER
    for url, said in (
        ("memory://mirror/none.gz", "is not there"),
        (f"file://{source.parent}", "is a folder"),
        ("carrier-pigeon://coop/m.json.gz", "cannot be read"),
    ):
        with pytest.raises(DataError, match=said):
            fetch_file(url, target, force=True)
    source.write_bytes(BODY[:1000])
    with pytest.raises(DataError, match="cut or damaged"):
        fetch_file(f"file://{source}", target, force=True)
    assert target.read_bytes() == OTHER


def test_a_file_elsewhere_goes_on_too_unless_it_changed(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.json.gz"
    source.write_bytes(BODY)
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))"
    for rewritten, resumed in ((False, 100_000), (True, 0)):
        done = _process(f"file://{source}", target, script).wait()
        assert done == 1
        assert _part(target).stat().st_size == 100_000
        if rewritten:
            source.write_bytes(OTHER)
        assert fetch_file(f"file://{source}", target).resumed_from == resumed
        assert target.read_bytes() == source.read_bytes()
        target.unlink()


def _process(url: str, target: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that fetches, and prints the bytes taken over and whether all was there."""
    code = (
        f"{before}\nimport pathlib, sys\nfrom warehouse.raw.fetch import fetch_file\n"
        "found = fetch_file(sys.argv[1], pathlib.Path(sys.argv[2]), wait=0.01)\nprint(found.resumed_from, found.kept)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(target)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _until(true: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_process_is_gone_on_from(site: Site, target: Path) -> None:
    site.faults = [Fault("stall", 196_608)]
    killed = _process(f"{site.url}/m.json.gz", target)
    _until(lambda: _part(target).exists() and _part(target).stat().st_size == 196_608)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not target.exists()
    done = _process(f"{site.url}/m.json.gz", target)
    assert done.communicate()[0].split() == ["196608", "False"]
    assert site.ranges == [None, "bytes=196608-"]
    assert target.read_bytes() == BODY
    assert _left(target) == {"m.json.gz", ".fetched"}


def test_two_processes_fetch_one_file_once(site: Site, target: Path) -> None:
    site.faults = [Fault("stall", 65_536), Fault("none")]
    first = _process(f"{site.url}/m.json.gz", target)
    _until(lambda: _part(target).exists() and _part(target).stat().st_size == 65_536)
    second = _process(f"{site.url}/m.json.gz", target)
    waiting = second.stderr.readline() if second.stderr else ""
    assert "being fetched by another process" in waiting
    site.release.set()  # the first one's connection ends, and it goes on
    assert first.communicate()[0].split() == ["0", "False"]
    assert second.communicate()[0].split() == ["0", "True"]
    assert target.read_bytes() == BODY
    assert site.ranges == [None, "bytes=65536-"]
    assert _left(target) == {"m.json.gz", ".fetched"}


def test_threads_fetch_different_files_at_once(site: Site, target: Path) -> None:
    for number in range(8):
        site.files[f"/{number}.csv"] = CSV + b"%d" % number
    targets = [target.with_name(f"{number}.csv") for number in range(8)]
    threads = [threading.Thread(target=_fetch, args=(site, one)) for one in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in targets:
        record = recorded(one)
        assert record is not None
        assert record.sha256 == hashlib.sha256(one.read_bytes()).hexdigest()
        assert one.read_bytes() == site.files[f"/{one.name}"]


def test_no_room(site: Site, target: Path) -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))"
    full = _process(f"{site.url}/m.json.gz", target, script)
    said = full.communicate()[1]
    assert "make room there" in said
    assert "the first 100,000 bytes are kept" in said
    assert _fetch(site, target).resumed_from == 100_000
    assert site.ranges == [None, "bytes=100000-"]
    assert target.read_bytes() == BODY


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(site: Site, target: Path) -> None:
    target.parent.mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot be written"):
        _fetch(site, target)


def test_torn_notes_start_over(site: Site, target: Path) -> None:
    target.parent.mkdir()
    _part(target).write_bytes(OTHER[:1000])
    target.with_name("m.json.gz.part.json").write_text('{"url": "http')
    assert _fetch(site, target).resumed_from == 0
    assert (target.read_bytes(), site.ranges) == (BODY, [None])


FAULTS = st.one_of(
    st.builds(Fault, st.sampled_from(["short", "reset", "piece"]), st.integers(1, len(BODY) - 1)),
    st.builds(Fault, st.sampled_from(["promise more", "promise less"]), st.integers(1, 2 * len(BODY))),
    st.builds(Fault, st.just("status"), st.sampled_from([403, 404, 416, 429, 500, 503])),
    st.builds(Fault, st.sampled_from(["page", "chunks"]), st.integers(0, 1)),
    st.builds(
        Fault,
        st.sampled_from(
            ["none", "change", "no ranges", "wrong range", "wrong total", "blind", "damage", "no length", "compressed"]
        ),
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FAULTS, max_size=7), st.booleans())
def test_whatever_a_server_does_there_are_the_right_bytes_or_none(site: Site, faults: list[Fault], etag: bool) -> None:
    site.files["/m.json.gz"], site.faults, site.etag = BODY, list(faults), etag
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "m.json.gz"
        for _ in range(len(faults) + 1):
            try:
                found = _fetch(site, target, retries=1, wait=0.0)
            except DataError:
                assert not target.exists()
            else:
                break
        assert target.read_bytes() == site.files["/m.json.gz"]
        assert found.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
        assert _left(target) == {"m.json.gz", ".fetched"}
