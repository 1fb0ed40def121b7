"""Lineage: the manifests of all versions of a store as one graph.

The catalogue's ``lineage.upstream`` and ``lineage.impact`` know only what the catalogue shows. This graph contains
every version that still exists. It reads manifests but no data.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Final, Protocol

from warehouse.artifacts.artifact import ALL, Artifact, Version
from warehouse.artifacts.errors import StoreError

__all__ = ["Lineage", "named"]

_NAME: Final = re.compile(
    r"(?P<key>[a-z]\w*/[a-z]\w*)(@(?P<domain>\w+))?(:(?P<cut>[0-9a-f]+))?|(?P<version>[0-9a-f]+)", re.ASCII
)
_SHORTEST: Final = 4
"""Hex digits that tell one version, or one raw file, from the others, unless several begin with them."""


def named(version: Version) -> str:
    """`layer/noun@domain:version`, the notation for people."""
    key, domain, digest = version
    return f"{key}@{domain}:{digest}"


class _Store(Protocol):
    def versions(self) -> dict[Version, Artifact | None]: ...

    def pointed(self) -> dict[tuple[str, str], Version]: ...


@dataclass(frozen=True)
class Lineage:
    """Every version, with None if its manifest cannot be read. `current` contains the versions that CURRENT names."""

    versions: Mapping[Version, Artifact | None]
    current: frozenset[Version]

    @classmethod
    def of(cls, store: _Store) -> "Lineage":
        """The lineage of everything in a store."""
        return cls(store.versions(), frozenset(store.pointed().values()))

    def inputs(self, version: Version) -> list[Version]:
        """What a version was made from, sorted. Empty if the version no longer exists or cannot be read."""
        artifact = self.versions.get(version)
        return [*artifact.manifest.made_from] if artifact else []

    @cached_property
    def outputs(self) -> Mapping[Version, list[Version]]:
        """What was made from each version, sorted."""
        found = defaultdict(list)
        for version in sorted(self.versions):
            for read in self.inputs(version):
                found[read].append(version)
        return found

    def upstream(self, roots: Iterable[Version]) -> list[Version]:
        """The roots and everything that they were made from. Each version comes before its inputs.

        Raises:
            StoreError: manifests contradict each other.
        """
        graph: dict[Version, list[Version]] = {}
        pending = list(roots)
        while pending:
            version = pending.pop()
            if version not in graph:
                graph[version] = self.inputs(version)
                pending += graph[version]
        return _ordered(graph)

    def downstream(self, roots: Iterable[Version]) -> list[Version]:
        """The roots and everything that was made from them. Each version comes after its inputs."""
        found: set[Version] = set()
        pending = list(roots)
        while pending:
            version = pending.pop()
            if version not in found:
                found.add(version)
                pending += self.outputs.get(version, [])
        among = {version: [read for read in self.inputs(version) if read in found] for version in found}
        return _ordered(among)[::-1]

    def readers(self, raw: str) -> list[Version]:
        """The versions that read a raw file (given by name or by the first digits of its sha256), sorted.

        Raises:
            StoreError: no version read it, or the digits match several files.
        """
        read = {
            version: artifact.manifest.sources for version, artifact in self.versions.items() if artifact is not None
        }
        by_name = [version for version, sources in read.items() if raw in sources]
        if by_name:
            return sorted(by_name)
        hashes = {sha256 for sources in read.values() for sha256 in sources.values() if _begins(sha256, raw)}
        if len(hashes) == 1:
            return sorted(version for version, sources in read.items() if hashes & set(sources.values()))
        if hashes:
            raise StoreError(f"{raw} begins the sha256 of {len(hashes)} raw files: give more digits")
        raise StoreError(
            f"nothing was made from a raw file {raw!r}: give its name without folders, or its sha256; "
            "`mmm4rec sql 'FROM lineage.sources'` lists them"
        )

    def find(self, name: str) -> Version:
        """The version with a name of the form `layer/noun@domain` (current), `layer/noun@domain:version`, or version.

        Without a domain, it is the artifact that spans all domains. The first digits of a version are enough.

        Raises:
            StoreError: there is no such version, or the digits match several versions.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise StoreError(
                f"{name!r} names no artifact: write layer/noun@domain, such as models/finetuned@Toys, "
                "layer/noun@domain:version, or a version"
            )
        key, domain = match["key"], match["domain"] or ALL
        digits = match["cut"] or match["version"]
        meant = [v for v in self.versions if key is None or v[:2] == (key, domain)]
        if key and not meant:
            others = sorted({f"{key}@{of}" for known, of, _ in self.versions if known == key})
            known = f"there are {', '.join(others)}" if others else "there is no such asset"
            raise StoreError(f"there is no {key} of {domain}; {known}")
        found = [v for v in meant if (_begins(v[2], digits) if digits else v in self.current)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreError(f"{name} could be {' or '.join(map(named, sorted(found)))}: write one of these")
        raise StoreError(
            f"there is no version {digits} {f'of {key}@{domain}' if key else 'here'}"
            if digits
            else f"no version of {key}@{domain} is current; `mmm4rec run` builds it"
        )


def _begins(digest: str, digits: str) -> bool:
    return len(digits) >= _SHORTEST and digest.startswith(digits)


def _ordered(graph: Mapping[Version, list[Version]]) -> list[Version]:
    """Each version before its inputs, in an order that depends on nothing else."""
    sorter = TopologicalSorter({version: sorted(inputs) for version, inputs in sorted(graph.items())})
    try:
        return list(sorter.static_order())[::-1]
    except CycleError as error:
        around = " from ".join(map(named, error.args[1]))
        raise StoreError(
            f"manifests contradict each other: {around}; delete the folder of one and run again"
        ) from error
