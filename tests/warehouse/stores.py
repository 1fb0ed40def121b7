"""Stores of both kinds for tests: one in a folder, one in a bucket on this machine; and how to damage and age them."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.bucket import Server, running
from tests.warehouse.work import overwrite
from warehouse.artifacts.artifact import Artifact, Recipe, recipe
from warehouse.artifacts.contract import ArtifactStore, Leftover
from warehouse.artifacts.objects import layout
from warehouse.artifacts.objects.store import Bucket
from warehouse.artifacts.opened import open_store

BUCKET = "bucket"


@dataclass
class Place:
    """A place for a store. `worker` tells machines apart: each has a data folder and a cache of its own."""

    kind: str
    folder: Path
    address: str
    server: Server | None = None

    def open(self, worker: int = 0, limit: int = 1 << 30) -> Any:
        """The store, as another process would open it."""
        data = self.folder / ("data" if self.kind == "folder" else f"worker{worker}")
        return open_store(self.address, data, data / "cache" / "store", limit)

    def shown(self, worker: int = 0) -> Path:
        """Where that worker's files are shown."""
        return self.folder / ("data" if self.kind == "folder" else f"worker{worker}")

    def later(self, seconds: float = 2 * 24 * 3600) -> None:
        """Let time pass by the server's clock."""
        if self.server:
            self.server.ahead(seconds)

    def collect(self, store: ArtifactStore) -> list[Leftover]:
        """What is removed once the grace period is over."""
        store.collect()
        self.later()
        return store.collect() if self.server else []

    def put(self, artifact: Artifact, name: str, data: bytes | None) -> None:
        """Damage a published file, or remove it; no copy of it is left in a cache."""
        if not self.server:
            path = artifact.place / name
            path.unlink() if data is None else overwrite(path, data)
            return
        store = self.open(99)
        key = store._describe(artifact.named)[0].objects[name]
        if data is None:
            store.client.remove(key)
        else:
            store.client.write(key, data)

    def put_manifest(self, artifact: Artifact, data: bytes) -> None:
        """Replace a manifest."""
        if not self.server:
            overwrite(artifact.place / "manifest.json", data)
        else:
            self.open(99).client.write(layout.versioned(artifact.named), data)

    def put_current(self, key: str, domain: str, data: bytes) -> None:
        """Replace what says which version is current."""
        if not self.server:
            overwrite(self.open().folder(key, domain) / "CURRENT", data)
        else:
            self.open(99).client.write(layout.current(key, domain), data)


def bucket_place(server: Server, folder: Path) -> Place:
    """A store in a bucket of the server that nobody has used."""
    return Place("bucket", folder, f"s3://{BUCKET}/{uuid.uuid4().hex}/a store", server)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with a bucket, for all tests of this process."""
    with running() as server:
        server.make(BUCKET)
        yield server


@pytest.fixture
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store in a bucket."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield bucket_place(server, tmp_path)
    server.tell(faults=[])


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store of either kind."""
    if request.param == "folder":
        return Place("folder", tmp_path, str(tmp_path / "data"))
    found: Place = request.getfixturevalue("bucket")
    return found


def of(**changes: Any) -> Recipe:
    """A recipe of items of toys, or of what the changes say."""
    fields = {"key": "core/items", "domain": "Toys", "code_version": "c1", "inputs": {}, "sources": {}}
    return Recipe(**{**fields, "parameters": {}, **changes})


def writes(text: str, **more: str) -> Callable[[Path], dict[str, Any]]:
    """A build of one file, or of several."""

    def build(out: Path) -> dict[str, Any]:
        for name, content in {"items": text, **more}.items():
            (out / f"{name}.txt").write_text(content)
        return {"rows": len(text)}

    return build


def make(store: Any, key: str, text: str, *inputs: Artifact, domain: str = "Toys") -> Artifact:
    """A version with one small file."""
    made = recipe(key, domain, "code", inputs, {}, {"text": text})
    found: Artifact = store.publish(made, writes(f"{key} {domain} {text}"))[0]
    return found


__all__ = ["Bucket", "Place", "bucket", "make", "of", "place", "server", "writes"]
