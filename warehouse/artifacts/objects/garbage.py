"""Garbage collection of a bucket, in two looks: the first dooms what nobody needs, a later one removes it.

A version is removed if it has been doomed for the grace period, nobody needs it, and everything that was made from it
has been removed. After that, objects of `files` are removed if no manifest names them and they are older than the grace
period. This is safe because of the order in which things are read: docs/decisions/0024.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from warehouse.artifacts.artifact import Artifact, Version
from warehouse.artifacts.contract import Leftover
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.objects import doom, layout
from warehouse.artifacts.objects.client import Tag
from warehouse.artifacts.objects.doom import Doom
from warehouse.artifacts.objects.layout import Described
from warehouse.artifacts.objects.leases import Leases
from warehouse.artifacts.objects.reader import BucketReader

__all__ = ["collect"]


@dataclass(frozen=True)
class _Seen:
    """What one collection has read."""

    began: datetime
    """The time of the server's clock before anything was read."""
    dooms: Mapping[Version, Doom]
    manifests: Mapping[Version, tuple[Described, Tag] | None]
    lineage: Lineage
    needed: frozenset[Version]


def collect(store: BucketReader, leases: Leases, dry_run: bool = False) -> list[Leftover]:
    """Doom and remove what nobody needs, and return it. With `dry_run`, only return it.

    Raises:
        StoreError: manifests contradict each other; nothing was removed.
    """
    seen, dead = _look(store, leases)
    found, gone = _versions(store, seen, dry_run)
    if not dry_run:
        store.client.remove(*dead)
    return [*found, *_files(store, seen, gone, dry_run)]


def _look(store: BucketReader, leases: Leases) -> tuple[_Seen, list[str]]:
    """Read what exists and what is needed: first the dooms, then the leases, CURRENT and pins, and then manifests."""
    began = leases.now(fresh=True)
    doomed = {version: found.modified for version, what, found in store._objects() if what == "doomed"}
    looks = store._at_once(lambda version: doom.look(store.client, version, doomed[version]), doomed)
    living = leases.living()
    pins, pointers, there = [], [], []
    for version, what, found in store._objects():
        if what == "pin":
            pins.append(version)
        elif what == "CURRENT":
            pointers.append(version[:2])
        elif what == "v" and found.bytes:
            there.append(version)
    current = frozenset(store._pointed(pointers).values())
    roots = {*living.versions, *pins, *current}
    manifests = store._described(there)
    pending = roots - manifests.keys()
    while pending:  # published since the listing began
        new = store._described(version for version in pending if layout.named(layout.doomed(version)))
        manifests |= new
        read = {read for one in new.values() if one for read in one[0].manifest.made_from}
        pending = {(key, domain, digest) for key, domain, digest in read} - manifests.keys() - pending
    lineage = Lineage({version: _plain(store, version, one) for version, one in sorted(manifests.items())}, current)
    # Where CURRENT leads nowhere, the next run may go back to any version.
    lost = {version[:2] for version in current if lineage.versions.get(version) is None}
    roots |= {version for version in manifests if version[:2] in lost}
    needed = frozenset(lineage.upstream(roots))
    return _Seen(began, dict(zip(doomed, looks, strict=True)), manifests, lineage, needed), living.dead


def _plain(store: BucketReader, version: Version, found: tuple[Described, Tag] | None) -> Artifact | None:
    return store._artifact(version, found[0]) if found else None


def _versions(store: BucketReader, seen: _Seen, dry_run: bool) -> tuple[list[Leftover], set[Version]]:
    """Doom, spare and remove versions, each before its inputs. Return what was done, and the removed versions."""
    found: list[Leftover] = []
    gone: set[Version] = set()
    ripe = seen.began - timedelta(seconds=store.terms.grace)
    for version in seen.lineage.upstream(seen.lineage.versions):
        if version not in seen.manifests:
            continue
        state = seen.dooms.get(version, Doom("kept", None))
        standing = [made for made in seen.lineage.outputs.get(version, []) if made not in gone]
        if state.state == "removing":
            if not dry_run:
                doom.finish(store.client, version, state)
            gone.add(version)
            found.append(_leftover("version", store, seen, version))
        elif version in seen.needed:
            if state.state == "doomed" and not dry_run:
                doom.spare(store.client, version, state)
        elif state.state == "kept":
            if dry_run or doom.condemn(store.client, version, state):
                found.append(_leftover("doomed", store, seen, version))
        elif not standing and state.since and state.since < ripe and (dry_run or _remove(store, seen, version, state)):
            gone.add(version)
            found.append(_leftover("version", store, seen, version))
    return found, gone


def _remove(store: BucketReader, seen: _Seen, version: Version, state: Doom) -> bool:
    """Remove a version; False if somebody has begun to use it in the meantime."""
    one = seen.manifests[version]
    manifest = one[1] if one else _state(store, version)
    removing = doom.condemn(store.client, version, state, manifest) if manifest else None
    if removing is None:
        return False
    if one:
        store.client.remove(layout.pointer(version[0], version[1], one[0].manifest.recipe))
    doom.finish(store.client, version, removing)
    return True


def _state(store: BucketReader, version: Version) -> Tag | None:
    """The state of a manifest that cannot be read."""
    said = store.client.read(layout.versioned(version))
    return said[1] if said else None


def _leftover(kind: str, store: BucketReader, seen: _Seen, version: Version) -> Leftover:
    one = seen.manifests[version]
    size = sum(entry.bytes for entry in one[0].manifest.files.values()) if one else 0
    return Leftover("doomed" if kind == "doomed" else "version", named(version), size)


def _files(store: BucketReader, seen: _Seen, gone: set[Version], dry_run: bool) -> Iterator[Leftover]:
    """Remove old objects of `files` that no manifest names, and say how many there were."""
    stay = {version: one for version, one in seen.manifests.items() if version not in gone}
    if None in stay.values():
        return  # a manifest that cannot be read may name any of them
    names = {key for one in stay.values() if one for key in one[0].objects.values()}
    old = seen.began - timedelta(seconds=store.terms.grace)
    unnamed = [found for found in store.client.listed(layout.FILES) if found.key not in names and found.modified < old]
    if unnamed:
        if not dry_run:
            store.client.remove(*(found.key for found in unnamed))
        yield Leftover("files", f"{len(unnamed):,} contents", sum(found.bytes for found in unnamed))
