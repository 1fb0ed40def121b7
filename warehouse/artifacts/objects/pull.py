"""Bringing tables of a bucket to this machine, and making a version that only this machine has.

The bucket is only read: whoever may list and get objects can do this. There is no lease. A version that was current
when a pull began stays in the bucket for the grace period at least. If a pull takes longer and finds one gone, it says
so.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warehouse.artifacts import history
from warehouse.artifacts.artifact import Artifact, Recipe, sealed
from warehouse.artifacts.environment import watch
from warehouse.artifacts.manifest import describe_file
from warehouse.artifacts.objects.reader import BucketReader
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.staging import room_for
from warehouse.artifacts.threads import map_in_order

__all__ = ["Fetched", "fetch_tables", "make_here"]

_TABLE: Final = ".parquet"
_AT_ONCE: Final = 8
"""Versions whose files are downloaded at the same time."""


@dataclass(frozen=True)
class Fetched:
    """How many files were downloaded, how many bytes they have, and how many files were here already."""

    files: int
    bytes: int
    there: int


def fetch_tables(store: BucketReader, artifacts: Sequence[Artifact], progress: Progress) -> Fetched:
    """Bring the tables of these versions into the cache. Each is verified by its sha256, and then put in place.

    `progress` is called with (done, total) bytes, of files that are here already, too.

    Raises:
        DamagedError: a file is not in the bucket, or has other bytes than its manifest says.
        StoreError: there is no space. What was fetched stays.
    """
    tables = [
        (artifact, [name for name in sorted(artifact.manifest.files) if name.endswith(_TABLE)])
        for artifact in artifacts
    ]
    total = sum(artifact.manifest.files[name].bytes for artifact, names in tables for name in names)
    store.cache.keep(*(artifact.named for artifact in artifacts))
    files = done = size = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        fetching = map_in_order(pool, lambda table: store._fetch(*table), tables, _AT_ONCE)
        for (artifact, names), fetched in zip(tables, fetching, strict=True):
            files += len(fetched)
            size += sum(artifact.manifest.files[name].bytes for name in fetched)
            done += sum(artifact.manifest.files[name].bytes for name in names)
            progress(done, total)
    return Fetched(files, size, sum(len(names) for _, names in tables) - files)


def make_here(store: BucketReader, recipe: Recipe, build: Callable[[Path], Mapping[str, Any]], shown: str) -> Path:
    """Show a file of the version of a recipe at the top of the data folder, and return its path.

    The version is in the cache and in no bucket. `build` gets an empty folder and returns a summary. It is not called
    if the version is in the cache already. The cache keeps the inputs of the version as long as the file is shown or
    open.
    """
    version = (recipe.key, recipe.domain, recipe.digest)
    manifest = store.cache.complete(version)
    with room_for(f"building {shown}", store.cache.root):
        if manifest is None:
            with store.cache.staging.new() as staging:
                files = staging / "files"
                files.mkdir()
                made_by = watch()
                summary = build(files)
                described = {path.name: describe_file(path) for path in sorted(files.iterdir())}
                manifest = sealed(recipe, recipe.digest, described, summary, history.now(), made_by())
                store.cache.adopt(version, manifest, files, described)
        store._show(store.cache.place(version) / shown, shown)
    return store.shown / shown
