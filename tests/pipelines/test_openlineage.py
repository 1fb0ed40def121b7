"""OpenLineage events, sent by the standard client to a file and to a web server on loopback."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from pipelines.planner import openlineage
from pipelines.planner.openlineage import run_events
from pipelines.running.definitions import build_defs
from tests.warehouse.work import write_raw
from tests.web import Serving
from warehouse.artifacts.files import sha256_file

DOMAIN = "Toys"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client writes other forms of what it is told into the environment, where they stay."""
    for name in list(os.environ):
        if name.startswith("OPENLINEAGE"):
            monkeypatch.delenv(name)


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    """A small domain, nothing built."""
    write_raw(tmp_path / "data" / "raw_files", DOMAIN, 0)
    monkeypatch.setenv("MMM4REC_DATA", str(tmp_path / "data"))
    return DataFolder(tmp_path / "data")


def run(*keys: str) -> dg.ExecuteInProcessResult:
    """Materialise assets of the domain."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domain", [DOMAIN])
        return (
            build_defs(DataFolder.find())
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=instance,
                partition_key=DOMAIN,
                asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
                raise_on_error=False,
            )
        )


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that events are appended to."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(path))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return path


class Listener(Serving):
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        listener = self
        self.release = threading.Event()
        self.posted: list[tuple[str, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.posted.append((self.path, json.loads(body)))
                self.send_response(201)
                self.end_headers()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.serve(server)

    def __enter__(self) -> "Listener":
        return self


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with Listener() as listening:
        monkeypatch.setenv("OPENLINEAGE_URL", listening.url)
        monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "shop")
        yield listening


def test_events_in_a_file_say_what_the_manifests_say(data_folder: DataFolder, file: Path) -> None:
    ran = run("raw/metadata", "core/items")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(event["job"]["name"], event["eventType"]) for event in events]
    assert told == [(key, kind) for key in ("raw/metadata", "core/items") for kind in ("START", "COMPLETE")]
    assert {event["job"]["namespace"] for event in events} == {"mmm4rec"}
    assert len({event["run"]["runId"] for event in events}) == 2
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in events} == {ran.run_id}

    metadata, items = (data_folder.store.require(key, DOMAIN) for key in ("raw/metadata", "core/items"))
    source = data_folder.raw_folder / data_folder.raw_file(DOMAIN, "metadata")
    raw_event, items_event = events[1], events[3]
    (read,) = raw_event["inputs"]
    assert (read["namespace"], read["name"]) == ("file", str(source))
    assert read["facets"]["version"]["datasetVersion"] == sha256_file(source)
    (made,) = raw_event["outputs"]
    (read,) = items_event["inputs"]
    assert made["name"] == read["name"] == str(metadata.path.parent)
    assert made["facets"]["version"]["datasetVersion"] == metadata.version
    assert read["facets"]["version"]["datasetVersion"] == metadata.version
    (made,) = items_event["outputs"]
    entry = items.manifest.files["items.parquet"]
    assert {field["name"]: field["type"] for field in made["facets"]["schema"]["fields"]} == entry.columns
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == entry.rows
    columns = made["facets"]["columnLineage"]["fields"]
    assert [(f["name"], f["field"]) for f in columns["title_raw"]["inputFields"]] == [(read["name"], "title")]


def test_events_reach_an_endpoint(data_folder: DataFolder, listener: Listener) -> None:
    assert run("raw/ratings").success
    assert [(path, event["eventType"]) for path, event in listener.posted] == [
        ("/api/v1/lineage", "START"),
        ("/api/v1/lineage", "COMPLETE"),
    ]
    assert {event["job"]["namespace"] for _, event in listener.posted} == {"shop"}
    (made,) = listener.posted[1][1]["outputs"]
    assert made["facets"]["version"]["datasetVersion"] == data_folder.store.require("raw/ratings", DOMAIN).version


def test_a_build_that_fails_is_told(data_folder: DataFolder, file: Path) -> None:
    (data_folder.raw_folder / data_folder.raw_file(DOMAIN, "ratings")).write_text("")
    assert not run("raw/ratings").success
    start, end = (json.loads(line) for line in file.read_text().splitlines())
    assert (start["eventType"], end["eventType"]) == ("START", "FAIL")
    assert "is empty" in end["run"]["facets"]["errorMessage"]["message"]
    assert end["outputs"] == []


def test_nobody_who_listens_is_no_reason_to_fail(
    data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", '{"total": 0}')
        assert run("raw/metadata").success
    assert "raw/metadata: the OpenLineage event COMPLETE was not sent" in caplog.text
    assert data_folder.store.whole("raw/metadata", DOMAIN)


def test_settings_that_the_client_refuses_are_an_error(
    data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    with (
        pytest.raises(SettingsError, match=r"the OpenLineage client refuses its settings: .*log_file_path"),
        run_events(data_folder, "raw/metadata", "job", "run"),
    ):
        pass


def test_without_the_settings_no_client_is_opened(data_folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> None:
        raise AssertionError("the client was opened")

    monkeypatch.setattr(openlineage, "_client", forbidden)
    assert run("raw/ratings").success
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert not run("raw/metadata").success
