"""Between a data folder and a bucket: `push` takes the folder's artifacts there, `pull` brings tables from there."""

import dataclasses
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data_folder.folder import CATALOGUE, DataFolder
from pipelines.errors import CommandError
from warehouse.artifacts.artifact import ALL, Artifact, recipe
from warehouse.artifacts.objects.pull import Fetched, fetch_tables, make_here
from warehouse.artifacts.objects.push import Pushed
from warehouse.artifacts.objects.push import push as push_versions
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.store import Store

if TYPE_CHECKING:
    from warehouse.artifacts.objects.store import Bucket

__all__ = ["Pulled", "pull", "push"]

OF_A_FOLDER = ("warehouse/catalogue", "warehouse/report")
"""Artifacts that name files by the paths of their data folder (docs/decisions/0011). Each folder builds its own."""


def push(
    data_folder: DataFolder,
    address: str,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
) -> Pushed:
    """Copy the artifacts that are in the data folder into a bucket: see `warehouse.artifacts.objects.push.push`.

    Raises:
        SettingsError: it is no address of a bucket.
        StoreError: as `push` there.
    """
    with tempfile.TemporaryDirectory() as cache:  # a push needs no local copies
        target = data_folder.bucket(address, Path(cache))
        return push_versions(Store(data_folder.path), target, OF_A_FOLDER, force, dry_run, progress)


@dataclass(frozen=True)
class Pulled:
    """What a pull has brought."""

    catalogue: Path
    fetched: Fetched
    shown: Sequence[Artifact]
    """The artifacts whose tables the catalogue shows."""
    apart: Sequence[Artifact]
    """The other current artifacts; only their lineage is in the catalogue."""
    damaged: Sequence[str]
    """What is current in the bucket and cannot be used, with the reason."""


def pull(
    data_folder: DataFolder,
    address: str | None = None,
    domains: Collection[str] = (),
    layers: Collection[str] = (),
    progress: Progress = lambda done, total: None,
) -> Pulled:
    """Bring the current tables from a bucket, and a catalogue at the top of the data folder that shows them.

    Args:
        data_folder: the data folder. The tables are in its cache.
        address: the bucket; by default the one that the settings name.
        domains: only these domains, and what spans all domains; if empty, all.
        layers: only these layers; if empty, all.
        progress: called with (done, total) bytes.

    Raises:
        CommandError: there is no bucket, store, domain or layer of that name, or the folder shows something else.
        StoreError: the bucket cannot be read, a file there is damaged, or there is no space. What was shown is shown.
    """
    # Imported here, because a push needs no steps.
    from pipelines.assets.warehouse import SHOWN, catalogue_of, write_catalogue
    from pipelines.planner.step import DECLARED, recorded

    store = _source(data_folder, address)
    current = [artifact for artifact in store.all_current() if artifact.key in SHOWN]
    _check(store, "domain", domains, {artifact.domain for artifact in current})
    _check(store, "layer", layers, {artifact.key.split("/")[0] for artifact in current})

    def is_asked(key: str, domain: str) -> bool:
        return (not domains or domain in (*domains, ALL)) and (not layers or key.split("/")[0] in layers)

    shown = [artifact for artifact in current if is_asked(artifact.key, artifact.domain)]
    if not shown:
        asked = f" of {', '.join(domains)} in {', '.join(layers)}" if current else ""
        raise CommandError(f"{store.client.url} has no tables{asked}: `mmm4rec run` or `mmm4rec push` puts them there")
    apart = [artifact for artifact in current if artifact not in shown]
    fetched = fetch_tables(store, shown, progress)
    of = catalogue_of(data_folder, store)
    step = DECLARED["warehouse/catalogue"]
    left = {artifact.ref: artifact.version for artifact in apart}
    wanted = recipe(step.key, ALL, step.code_version, shown, {}, {**recorded(of), "apart": left})
    catalogue = make_here(
        store, wanted, lambda out: dataclasses.asdict(write_catalogue(shown, of, out, apart)), CATALOGUE
    )
    damaged = [why for ref, why in store.damaged().items() if ref[0] in SHOWN and is_asked(*ref)]
    return Pulled(catalogue, fetched, shown, apart, damaged)


def _source(data_folder: DataFolder, address: str | None) -> "Bucket":
    """The bucket from which to pull, after checking that it has a store and that this folder is not about another."""
    place = data_folder.place
    if address is None and place is None:
        raise CommandError(
            "there is no bucket to pull from: name it, as in `mmm4rec pull s3://bucket/prefix`, or write "
            f"`store: s3://bucket/prefix` into {data_folder.settings_file}"
        )
    if address and place and address.rstrip("/") != place.rstrip("/"):
        raise CommandError(f"{data_folder.path} works with {place}: choose another --data to pull from {address}")
    if place is None and Store(data_folder.path).pointed():
        raise CommandError(
            f"{data_folder.path} has artifacts of its own, which its {CATALOGUE} shows: choose another --data, such as "
            "an empty folder"
        )
    store = data_folder.bucket(address or place or "")
    if not store.is_there:
        raise CommandError(f"there is no store at {store.client.url}: correct the address, or `mmm4rec push` makes one")
    store.terms  # noqa: B018 - the cache must be of this store
    return store


def _check(store: "Bucket", what: str, asked: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted({*asked} - {*known}):
        there = ", ".join(sorted(known)) or "none"
        raise CommandError(f"{store.client.url} has no tables of the {what} {unknown[0]!r}; there are {there}")
