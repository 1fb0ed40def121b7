"""The artifact store in a folder and in a bucket: publishing, opening and verifying versions, in one run.

``python -m benchmarks.store [--quick] [--json] [--bucket s3://...]``. Without an address the bucket is that of the
tests, a server in Python on this machine: then the figures tell what the store costs, and nothing of a network. A cold
open fetches all files of a version into an empty cache, a warm one finds them there. Requests are those that a version
needs; a file of more than 8 MiB is one here, and is sent in parts.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import arguments, show
from warehouse.artifacts.artifact import Artifact, Recipe
from warehouse.artifacts.contract import ArtifactStore
from warehouse.artifacts.opened import open_store

_CALLS = ("put", "get", "head", "list", "delete", "list_with_delimiter")


def main() -> None:
    """Measure both, print."""
    given = arguments(__doc__ or "", versions=8, files=4, megabytes=16, folder="", bucket="")
    versions, megabytes = (2, 1) if given.quick else (given.versions, given.megabytes)
    figures: dict[str, Any] = {"versions": versions, "files": given.files, "megabytes_a_file": megabytes}
    with tempfile.TemporaryDirectory(dir=given.folder or None) as name, _bucket(given.bucket) as address:
        for kind, place in (("folder", str(Path(name) / "store")), ("bucket", address)):
            measured = _measure(place, Path(name) / kind, versions, given.files, megabytes)
            figures |= {f"{kind}_{figure}": value for figure, value in measured.items()}
    show(f"{versions} versions of {given.files} files of {megabytes} MB, published and read", figures, given.json)


@contextmanager
def _bucket(address: str) -> Iterator[str]:
    """The address that is given, or one on this machine."""
    if address:
        yield f"{address}/{uuid.uuid4().hex}"
        return
    from tests.warehouse.bucket import running  # the one server that needs no account

    with running() as server:
        os.environ.update(server.environment)
        server.make("benchmark")
        yield "s3://benchmark/store"


def _measure(place: str, folder: Path, versions: int, files: int, megabytes: int) -> dict[str, float]:
    """Seconds, MB/s and requests a version of each thing that a store does."""

    def opened(worker: int) -> ArtifactStore:
        data = folder / str(worker)
        return open_store(place, data, data / "cache")

    domains = [f"D{number}" for number in range(versions)]
    writer, reader = opened(0), opened(1)
    acts: dict[str, Callable[[str], Any]] = {
        "publish": lambda domain: writer.publish(_recipe(domain), lambda out: _write(out, domain, files, megabytes)),
        "publish_again": lambda domain: writer.publish(_recipe(domain), _never),
        "find": lambda domain: reader.whole("core/items", domain),
        "open_cold": lambda domain: _read(reader.require("core/items", domain)),
        "open_warm": lambda domain: _read(reader.require("core/items", domain)),
        "verify": lambda domain: reader.verify(reader.require("core/items", domain)),
    }
    figures = {}
    for name, act in acts.items():
        with _counted() as requests:
            began = time.perf_counter()
            for domain in domains:
                act(domain)
            seconds = time.perf_counter() - began
        figures[f"{name}_ms"] = seconds / versions * 1e3
        if name in ("publish", "open_cold", "verify"):
            figures[f"{name}_mb_per_second"] = versions * files * megabytes / seconds
        if "://" in place:
            figures[f"{name}_requests"] = requests[0] / versions
    return figures


def _recipe(domain: str) -> Recipe:
    return Recipe("core/items", domain, "code", {}, {}, {})


def _write(out: Path, domain: str, files: int, megabytes: int) -> dict[str, Any]:
    for number in range(files):
        (out / f"file{number}").write_bytes(os.urandom(1 << 20) * megabytes)
    return {}


def _never(out: Path) -> dict[str, Any]:
    raise AssertionError("it is there")


def _read(artifact: Artifact) -> int:
    return sum(len(path.read_bytes()) for path in artifact.path.iterdir())


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many requests are sent within the block."""
    import obstore

    count, real = [0], {name: getattr(obstore, name) for name in _CALLS}

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            count[0] += 1
            return function(*args, **named)

        return call

    for name, function in real.items():
        setattr(obstore, name, counting(function))
    try:
        yield count
    finally:
        for name, function in real.items():
            setattr(obstore, name, function)


if __name__ == "__main__":
    main()
