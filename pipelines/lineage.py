"""Lineage for people and for Dagster: trees, damage, and whether event log and catalogue say what the store says.

The graph is `warehouse.lineage`; columns are `pipelines.columns`; events for other tools `pipelines.openlineage`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from rich.markup import escape
from rich.tree import Tree

from pipelines.assets import warehouse  # noqa: F401 - declares every step
from pipelines.settings import House
from pipelines.step import STEPS, Ref
from warehouse.errors import WarehouseError
from warehouse.lineage import Lineage, named
from warehouse.query import query
from warehouse.store import ALL, Version

__all__ = ["describe", "disagreements", "tree", "unrecorded", "verify"]

_SQL = Path(__file__).parent / "sql"
_DATA_VERSION = "dagster/data_version"


def describe(lineage: Lineage, version: Version) -> dict[str, Any]:
    """A version as JSON: what it is, and what it was made from."""
    artifact = lineage.versions.get(version)
    key, domain, digest = version
    row: dict[str, Any] = {"key": key, "domain": domain, "version": digest, "current": version in lineage.current}
    if artifact is None:
        return row | {"known": False}
    manifest = artifact.manifest
    return row | {
        "known": True,
        "path": str(artifact.path),
        **{name: manifest[name] for name in ("created", "code_version", "recipe")},
        "inputs": [named(read) for read in lineage.inputs(version)],
        "sources": manifest["sources"],
    }


def tree(lineage: Lineage, root: Version) -> Tree:
    """What `root` was made from, down to raw files; what several were made from stands where it is met first."""
    shown = Tree(_line(lineage, root), highlight=False)
    branches = {root: shown}
    pending = [root]
    while pending:
        version = pending.pop()
        branch = branches[version]
        artifact = lineage.versions.get(version)
        for name, sha256 in artifact.manifest["sources"].items() if artifact else ():
            branch.add(f"[green]{escape(name)}[/green] sha256 {sha256}")
        new = []
        for read in lineage.inputs(version):
            if read in branches:
                branch.add(f"[dim]{escape(named(read))} (see there)[/dim]")
            else:
                branches[read] = branch.add(_line(lineage, read))
                new.append(read)
        pending += reversed(new)
    return shown


def _line(lineage: Lineage, version: Version) -> str:
    key, domain, digest = version
    artifact = lineage.versions.get(version)
    if artifact is None:
        said = "not in the store: what it was made from is unknown"
    else:
        said = f"{artifact.manifest['created'][:16]}{'' if version in lineage.current else ', not current'}"
    return f"[bold]{key}[/bold]@{domain}:{digest} [dim]{said}[/dim]"


def verify(
    house: House,
    domains: Sequence[str] = (),
    everything: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[str]]:
    """Hash every file of the current versions, or of all, and say by version what is wrong with it.

    What is damaged is marked, so that the next run builds it again; what is whole again loses the mark.

    Args:
        house: the data folder.
        domains: only these; without any, also what spans all domains.
        everything: versions that are not current too.
        progress: called with (done, total) bytes.
    """
    lineage = Lineage.of(house.store)
    for domain in {*domains} - {known for _, known, _ in lineage.versions}:
        house.settings.domain(domain)
    asked = lineage.current.union(lineage.versions if everything else ())
    chosen = {version: 0 for version in sorted(asked) if not domains or version[1] in domains}
    for version in chosen:
        if artifact := lineage.versions.get(version):
            chosen[version] = sum(facts["bytes"] for facts in artifact.manifest["files"].values())
    found, done = {}, 0
    for version, size in chosen.items():
        artifact = lineage.versions.get(version)
        if artifact is None:
            problems = [_unreadable(house, version)]
        else:
            problems = house.store.verify(artifact)
            if not house.store.mark(version, "damaged", bool(problems)):
                problems = []  # collected meanwhile
        found[named(version)] = problems
        progress(done := done + size, sum(chosen.values()))
    return found


def _unreadable(house: House, version: Version) -> str:
    key, domain, _ = version
    try:
        house.store.current(key, domain)
    except WarehouseError as error:
        return str(error)
    return f"{house.store.path(version)} has no readable manifest; `mmm4rec gc` removes it"


def unrecorded(house: House, instance: dg.DagsterInstance) -> list[Ref]:
    """What stands in the store though Dagster's event log has another version as its last, or none.

    So it is after a process was killed between the two, and in a store that came from elsewhere. To materialise these
    builds nothing, and records them.
    """
    behind = []
    current = house.store.pointed()
    for key, step in STEPS.items():
        logged = _logged(instance, key, step.per_domain)
        for domain in step.domains(house, sorted(house.settings.domains)):
            version = current.get((key, domain))
            if version and version[2] != logged.get(domain):
                behind.append((key, domain))
    return behind


def _logged(instance: dg.DagsterInstance, key: str, per_domain: bool) -> dict[str, str]:
    """The data version of the last materialisation, by domain."""
    asset = dg.AssetKey(key.split("/"))
    if per_domain:
        # One query an asset, however many domains there are; the public calls load an event a domain.
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION, [_DATA_VERSION]
        )
        return {domain: found[_DATA_VERSION] for domain, found in tags.items()}
    event = instance.get_latest_materialization_event(asset)
    made = event.asset_materialization if event else None
    return {ALL: (made.tags or {}).get(_DATA_VERSION, "")} if made else {}


def disagreements(house: House, instance: dg.DagsterInstance) -> list[str]:
    """Where catalogue or event log say something else than the store, a line each."""
    found = [
        f"Dagster's event log does not have the current {key} of {domain}; `mmm4rec run` records it"
        for key, domain in unrecorded(house, instance)
    ]
    if not house.catalogue.is_file():
        return [*found, f"there is no catalogue at {house.catalogue}"]
    rows = query(house.catalogue, (_SQL / "shown_versions.sql").read_text()).to_pylist()
    shown = {(row["key"], row["domain"], row["version"]) for row in rows}
    stored = {version for version in house.store.pointed().values() if not version[0].startswith("warehouse/")}
    return [
        *found,
        *(f"the catalogue does not show the current {named(version)}" for version in sorted(stored - shown)),
        *(f"the catalogue shows {named(version)}, which is not current" for version in sorted(shown - stored)),
    ]
