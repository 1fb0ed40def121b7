"""Lineage for people: trees of versions, and damage to versions.

The graph is in `warehouse.artifacts.lineage`, column lineage in `pipelines.planner.columns`, and Dagster's records in
`pipelines.planner.event_log`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from rich.tree import Tree

from pipelines.data_folder.folder import DataFolder
from pipelines.terminal import escaped
from warehouse.artifacts.errors import ReadOnlyError, StoreError
from warehouse.artifacts.lineage import Lineage, named
from warehouse.artifacts.manifest import Environment
from warehouse.artifacts.store import Version

__all__ = ["describe", "tree", "verify"]


def describe(lineage: Lineage, version: Version) -> dict[str, Any]:
    """A version as JSON: its identity, and what it was made from."""
    artifact = lineage.versions.get(version)
    key, domain, digest = version
    row: dict[str, Any] = {"key": key, "domain": domain, "version": digest, "current": version in lineage.current}
    if artifact is None:
        return row | {"known": False}
    manifest = artifact.manifest
    return row | {
        "known": True,
        "path": str(artifact.place),
        "created": manifest.created,
        "code_version": manifest.code_version,
        "recipe": manifest.recipe,
        "environment": msgspec.structs.asdict(manifest.environment) if manifest.environment else None,
        "inputs": [named(read) for read in lineage.inputs(version)],
        "sources": manifest.sources,
    }


def tree(lineage: Lineage, root: Version) -> Tree:
    """What `root` was made from, down to raw files. A version that several others use is shown only once, first.

    How a version was made is shown below it, if this differs from the version above.
    """
    shown = Tree(_line(lineage, root), highlight=False)
    branches = {root: shown}
    makers = {root: ""}
    pending = [root]
    while pending:
        version = pending.pop()
        branch = branches[version]
        artifact = lineage.versions.get(version)
        if artifact and (maker := _maker(artifact.manifest.environment)) != makers[version]:
            branch.add(f"[dim]{escaped(maker)}[/dim]")
            makers[version] = maker
        for name, sha256 in artifact.manifest.sources.items() if artifact else ():
            branch.add(f"[green]{escaped(name)}[/green] sha256 {escaped(sha256)}")
        new = []
        for read in lineage.inputs(version):
            if read in branches:
                branch.add(f"[dim]{escaped(named(read))} (see there)[/dim]")
            else:
                branches[read] = branch.add(_line(lineage, read))
                makers[read] = makers[version]
                new.append(read)
        pending += reversed(new)
    return shown


def _line(lineage: Lineage, version: Version) -> str:
    key, domain, digest = version
    artifact = lineage.versions.get(version)
    if artifact is None:
        note = "not in the store: what it was made from is unknown"
    else:
        note = f"{artifact.manifest.created[:16]}{'' if version in lineage.current else ', not current'}"
    return f"[bold]{escaped(key)}[/bold]@{escaped(domain)}:{escaped(digest)} [dim]{escaped(note)}[/dim]"


def _maker(environment: Environment | None) -> str:
    """How a version was made, in one line."""
    if environment is None:
        return "what made it is not recorded"
    commit = environment.git_commit[:12] if environment.git_commit else "unknown"
    changed = ", with changes" if environment.git_clean is False else ""
    packages = [f"{name} {version}" for name, version in environment.packages.items()]
    return (
        f"made at commit {commit}{changed}; device {environment.device}; processor {environment.processor}; "
        f"by {', '.join([f'Python {environment.python}', *packages])}"
    )


def verify(
    data_folder: DataFolder,
    domains: Sequence[str] = (),
    everything: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[str]]:
    """Hash every file of the current versions, or of all versions, and return the problems of each version.

    Damaged versions are marked, so that the next run rebuilds them. Versions that are whole again lose the mark. A
    read-only store keeps its marks. A version that has failed a check of its content is returned too.

    Args:
        data_folder: the data folder.
        domains: only these domains; if empty, all, including artifacts that span all domains.
        everything: include versions that are not current.
        progress: called with (done, total) bytes.
    """
    lineage = Lineage.of(data_folder.store)
    for domain in {*domains} - {known for _, known, _ in lineage.versions}:
        data_folder.settings.domain(domain)
    asked = lineage.current.union(lineage.versions if everything else ())
    chosen = {version: 0 for version in sorted(asked) if not domains or version[1] in domains}
    for version in chosen:
        if artifact := lineage.versions.get(version):
            chosen[version] = sum(entry.bytes for entry in artifact.manifest.files.values())
    refused = {*data_folder.store.marked("refused")}
    found, done = {}, 0
    for version, size in chosen.items():
        artifact = lineage.versions.get(version)
        if artifact is None:
            problems = [_unreadable(data_folder, version)]
        else:
            problems = data_folder.store.verify(artifact)
            with suppress(ReadOnlyError):  # if no mark can be set, the result is still returned
                if not data_folder.store.mark(version, "damaged", bool(problems)):
                    problems = []  # removed by garbage collection in the meantime
                elif version in refused:
                    problems.append(f"{artifact.place} has failed its check")
        found[named(version)] = problems
        progress(done := done + size, sum(chosen.values()))
    return found


def _unreadable(data_folder: DataFolder, version: Version) -> str:
    key, domain, _ = version
    try:
        data_folder.store.current(key, domain)
    except StoreError as error:
        return str(error)
    return f"{data_folder.store.where(*version)} has no readable manifest; `mmm4rec gc` removes it"
