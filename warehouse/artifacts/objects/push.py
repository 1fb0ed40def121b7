"""Copying the versions of a store in a folder into a bucket.

Every version keeps its name and its manifest. It is published after everything that it was made from. Pins follow, and
CURRENT moves last. So whoever reads meanwhile, or after a kill at any moment, sees versions that all have their inputs.
The next push continues: what is in the bucket is not sent again.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

from warehouse.artifacts.artifact import Artifact, Version
from warehouse.artifacts.contract import UNFIT
from warehouse.artifacts.errors import DamagedError, ReadOnlyError, StoreError
from warehouse.artifacts.history import Entry, continued, entry
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.manifest import Manifest
from warehouse.artifacts.objects import doom
from warehouse.artifacts.objects.store import Bucket
from warehouse.artifacts.progress import Progress
from warehouse.artifacts.store import Store

__all__ = ["Pushed", "push"]

Ref = tuple[str, str]
"""(key, domain)."""


@dataclass(frozen=True)
class Pushed:
    """What a push has done, or what it would do."""

    versions: int
    """Versions that were sent."""
    files: int
    """Files of these versions."""
    bytes: int
    """Bytes of these files."""
    there: int
    """Versions that were in the bucket already."""
    pins: int
    """Pins that were set."""
    current: int
    """Artifacts whose CURRENT has moved."""


@dataclass(frozen=True)
class _Plan:
    """What is to be in the bucket."""

    versions: list[Artifact]
    """Each after everything that it was made from."""
    pins: list[Version]
    histories: dict[Ref, list[Entry]]
    """By artifact; the last entry is the version that is current in the folder."""


def push(
    source: Store,
    target: Bucket,
    apart: Collection[str] = (),
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
) -> Pushed:
    """Copy the current and the pinned versions of a folder into a bucket, with everything that they were made from.

    Args:
        source: the store in a folder. It is only read.
        target: the store in a bucket. It is made if there is none.
        apart: keys of artifacts that stay where they are.
        force: make the folder's versions current also where the bucket's current version is no older one of the folder.
        dry_run: change nothing, and tell what would be done.
        progress: called with (done, total) bytes.

    Raises:
        StoreError: the bucket has other current versions and `force` is not set, or a version was made from one that is
            gone: nothing was sent. Or a version is damaged: those before it were sent, and none has become current.
    """
    with ExitStack() as stack:
        plan = _plan(source, apart, stack)
        moves = _moves(target, plan.histories, force)
        if dry_run:
            stands = target._at_once(lambda artifact: _stands(target, artifact), plan.versions)
        else:
            target.terms  # noqa: B018 - the store is made before there is a lease in it
            hold = stack.enter_context(target.leases.hold())
            hold.versions(*(artifact.named for artifact in plan.versions))
            stands = target._at_once(lambda artifact: _kept(target, artifact), plan.versions)
        missing = [artifact for artifact, found in zip(plan.versions, stands, strict=True) if not found]
        pins = sorted({*plan.pins} - {*target.marked("pin")})
        if not dry_run:
            _send(source, target, missing, progress)
            for version in pins:
                target.mark(version, "pin")
            for ref in moves:
                _move(target, ref, plan.histories[ref], force)
    sizes = [entry.bytes for artifact in missing for entry in artifact.manifest.files.values()]
    return Pushed(len(missing), len(sizes), sum(sizes), len(plan.versions) - len(missing), len(pins), len(moves))


def _plan(source: Store, apart: Collection[str], stack: ExitStack) -> _Plan:
    """What the folder has, held until the stack is closed, so that nobody collects it."""
    if damaged := [why for (key, _), why in source.damaged().items() if key not in apart]:
        raise StoreError(f"nothing was pushed: {'; '.join(damaged[:3])}")
    refs = sorted(ref for ref in source.pointed() if ref[0] not in apart)
    if not refs:
        raise StoreError(f"{source.root} has no artifacts to push: `mmm4rec run` builds them, or choose another --data")
    try:
        current = stack.enter_context(source.holding(refs))
    except ReadOnlyError:  # then nobody collects there, either
        current = [source.require(*ref) for ref in refs]
    lineage = Lineage.of(source)
    pins = [version for version in source.marked("pin") if version in lineage.versions and version[0] not in apart]
    versions = []
    for version in lineage.upstream({*pins, *(artifact.named for artifact in current)})[::-1]:
        artifact = lineage.versions.get(version)
        if artifact is None:
            raise StoreError(
                f"nothing was pushed: {named(version)} is not in {source.root} or has no readable manifest, and other "
                "versions were made from it: `mmm4rec run` builds them again; for an old version, `mmm4rec unpin` it"
            )
        versions.append(artifact)
    held = {artifact.named for artifact in current}
    histories = {one.named[:2]: _history(source, one) for one in versions if one.named in held}
    return _Plan(versions, pins, histories)


def _history(source: Store, current: Artifact) -> list[Entry]:
    """The history of an artifact in the folder, up to the version that is held."""
    entries = source._entries(current.key, current.domain)
    while entries and entries[-1].version != current.version and any(e.version == current.version for e in entries):
        entries = entries[:-1]
    return continued(entries, entry(current, current.manifest.created))


def _moves(target: Bucket, histories: dict[Ref, list[Entry]], force: bool) -> list[Ref]:
    """The artifacts whose CURRENT moves, in the order in which their histories are given."""
    found, refused = [], []

    def look(ref: Ref) -> list[Entry]:
        try:
            return target._history(*ref)[0]
        except DamagedError:
            if force:
                return []
            raise

    for (ref, ours), there in zip(histories.items(), target._at_once(look, histories), strict=True):
        after = _continued(there, ours, "" if force else None)
        if after is None:
            refused.append((ref, there[-1].version))
        elif after != there:
            found.append(ref)
    if refused:
        raise _other(target, refused)
    return found


def _continued(there: list[Entry], ours: list[Entry], forced: str | None) -> list[Entry] | None:
    """The history in the bucket once it goes on with that of the folder.

    None: what is current there was never current in the folder. With `forced`, a time, the folder's version then
    becomes current at that time.
    """
    if not there:
        return ours
    versions = [one.version for one in ours]
    last = there[-1].version
    if last == versions[-1]:
        return there
    if last in versions:
        following = ours[len(versions) - versions[::-1].index(last) :]
    elif forced is not None:
        following = [_at(ours[-1], forced)]
    else:
        return None
    history = [*there]
    for one in following:  # a wrong clock of this machine must not make time go backwards
        history.append(_at(one, max(one.since, history[-1].since)))
    return history


def _at(one: Entry, since: str) -> Entry:
    return Entry(version=one.version, since=since, rows=one.rows, summary=one.summary)


def _other(target: Bucket, refused: Sequence[tuple[Ref, str | None]]) -> StoreError:
    some = ", ".join(
        f"{key}@{domain} ({f'version {version}' if version else 'forgotten'})" for (key, domain), version in refused[:3]
    )
    more = f" and {len(refused) - 3:,} more" if len(refused) > 3 else ""
    return StoreError(
        f"{target.client.url} has other current versions than this folder has ever had: {some}{more}. Somebody has "
        "built there since, or it is the store of another folder: check the address. `--force` makes the versions of "
        "this folder current; a later `mmm4rec gc` removes those that they replace, unless they are pinned"
    )


def _kept(target: Bucket, artifact: Artifact) -> bool:
    """Whether a version, which the lease names, is in the bucket and stays."""
    return doom.keep(target.client, artifact.named) and _stands(target, artifact)


def _stands(target: Bucket, artifact: Artifact) -> bool:
    """Whether a version as good is in the bucket: the same recipe, or one that was used later to make the same."""
    found = None
    with suppress(DamagedError):
        found = target._read(artifact.named)
    if found is None or not target._is_whole(found):
        return False
    return found.manifest.recipe == artifact.manifest.recipe or _moment(found.manifest) > _moment(artifact.manifest)


def _moment(manifest: Manifest) -> float:
    try:
        return datetime.fromisoformat(manifest.created).timestamp()
    except (ValueError, OverflowError):  # a store may come from elsewhere
        return 0.0


def _send(source: Store, target: Bucket, missing: Sequence[Artifact], progress: Progress) -> None:
    """Publish versions, one after the other, without making them current."""
    unfit = {version for mark in UNFIT for version in source.marked(mark)}
    total, done = sum(entry.bytes for one in missing for entry in one.manifest.files.values()), 0
    for artifact in missing:
        _send_one(source, target, artifact, artifact.named in unfit)
        done += sum(entry.bytes for entry in artifact.manifest.files.values())
        progress(done, total)


def _send_one(source: Store, target: Bucket, artifact: Artifact, unfit: bool) -> None:
    problems = source.verify(artifact)
    if unfit:
        problems.append(f"{artifact.path} was found damaged or refused by a check")
    if problems:
        raise StoreError(
            f"{named(artifact.named)} is not pushed: {problems[0]}; `mmm4rec verify`, then `mmm4rec run`. What was "
            "pushed before stays; the next push continues"
        )
    target._settle(artifact.named, lambda: artifact.manifest, artifact.path)


def _move(target: Bucket, ref: Ref, ours: list[Entry], force: bool) -> None:
    """Let CURRENT of an artifact name the folder's version."""

    def on(there: list[Entry]) -> list[Entry]:
        after = _continued(there, ours, target._time() if force else None)
        if after is None:
            raise _other(target, [(ref, there[-1].version)])
        return after

    target._change_history(*ref, on)
    version = (*ref, ours[-1].version or "")
    # Once more, after it is current, as for every publication: docs/decisions/0024.
    if not (doom.keep(target.client, version) and target._exists(version)):
        raise StoreError(f"{named(version)} was removed from {target.client.url} meanwhile: push again")
