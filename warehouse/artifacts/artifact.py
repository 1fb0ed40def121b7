"""The names of an artifact and of its versions, and the recipe that decides its bytes."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.manifest import FORMAT, Environment, FileEntry, Manifest, parse

__all__ = [
    "ALL",
    "Artifact",
    "Recipe",
    "Version",
    "check_domain",
    "digest_of",
    "is_domain",
    "is_key",
    "mend",
    "missing",
    "recipe",
    "sealed",
]

ALL: Final = "_all"
"""The domain of an artifact that spans all domains."""
Version = tuple[str, str, str]
"""(key, domain, version)."""

_DOMAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KEY: Final = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")


def check_domain(domain: str) -> str:
    """Return `domain` if it is safe as a folder name and as text in SQL. Otherwise raise `StoreError`."""
    if not is_domain(domain):
        raise StoreError(
            f"{domain!r} is no domain name: a letter, then at most 63 letters, digits or underscores; "
            "rename the raw files, or give the category a short name in domains.yaml"
        )
    return domain


def is_domain(name: str) -> bool:
    """Whether a text names a domain, or all of them."""
    return name == ALL or bool(_DOMAIN.fullmatch(name))


def is_key(name: str) -> bool:
    """Whether a text has the form layer/noun."""
    return bool(_KEY.fullmatch(name))


@dataclass(frozen=True)
class Artifact:
    """One version of one artifact. Its files may have to come from elsewhere first: ask for those that you read."""

    key: str
    domain: str
    version: str
    place: Path
    """The folder that its files are in, once they were asked for."""
    manifest: Manifest
    fetch: Callable[["Artifact", Iterable[str]], object] | None = field(default=None, compare=False, repr=False)
    """What brings files to `place`; None where all of them are there."""

    @property
    def path(self) -> Path:
        """The folder with all of its files."""
        self._bring(self.manifest.files)
        return self.place

    def file(self, name: str) -> Path:
        """The path of one of its files. No other is fetched; a name that is not in the manifest leads to no file."""
        self._bring([name] if name in self.manifest.files else [])
        return self.place / name

    def _bring(self, names: Iterable[str]) -> None:
        if self.fetch is not None:
            self.fetch(self, names)

    @property
    def named(self) -> Version:
        """(key, domain, version)."""
        return self.key, self.domain, self.version

    @property
    def ref(self) -> str:
        """`layer/noun@domain`, the name in lineage."""
        return f"{self.key}@{self.domain}"

    @property
    def main(self) -> Path:
        """The main table."""
        return self.file(self.main_name)

    @property
    def main_name(self) -> str:
        """The name of the main table: the noun."""
        return f"{self.key.split('/')[1]}.parquet"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an artifact's bytes: code, inputs by version, raw sources by sha256, parameters."""

    key: str
    domain: str
    code_version: str
    inputs: Mapping[str, str]
    sources: Mapping[str, str]
    parameters: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What names the recipe, 16 hex digits."""
        parts = [self.key, self.domain, self.code_version, self.inputs, self.sources, self.parameters]
        return digest_of(parts)


def digest_of(value: Any) -> str:
    """The first 16 hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def recipe(
    key: str,
    domain: str,
    code_version: str,
    inputs: Sequence[Artifact],
    sources: Mapping[str, str],
    parameters: Mapping[str, Any],
) -> Recipe:
    """The recipe of an artifact that is made from the present versions of `inputs`."""
    # Through JSON, so that what is compared is what the manifest stores.
    plain = json.loads(json.dumps(parameters, sort_keys=True))
    return Recipe(key, domain, code_version, {a.ref: a.version for a in inputs}, sources, plain)


def sealed(
    recipe: Recipe,
    version: str,
    files: dict[str, FileEntry],
    summary: Mapping[str, Any],
    created: str,
    environment: Environment,
) -> Manifest:
    """The manifest of a version that was made by `recipe`, as readers will read it.

    Raises:
        StoreError: readers would refuse it.
    """
    made = Manifest(
        format=FORMAT,
        key=recipe.key,
        domain=recipe.domain,
        version=version,
        recipe=recipe.digest,
        code_version=recipe.code_version,
        inputs=dict(recipe.inputs),
        sources=dict(recipe.sources),
        parameters=dict(recipe.parameters),
        files=files,
        summary=dict(summary),
        created=created,
        environment=environment,
    )
    try:
        return parse(made.text, recipe.key, recipe.domain, version)
    except ValueError as error:
        raise StoreError(
            f"{recipe.key} of {recipe.domain} cannot be published: {error}; this is a fault of its build"
        ) from error


def missing(key: str, domain: str) -> StoreError:
    """The error of an artifact that was never built."""
    what = "mmm4rec run" if domain == ALL else f"mmm4rec run {domain}"
    return StoreError(f"{key} of {domain} has not been built; `{what}` builds it")


def mend(domain: str) -> str:
    """The command that rebuilds a damaged artifact of a domain."""
    return f"`mmm4rec run{'' if domain == ALL else f' {domain}'}` builds it again"
