"""The data folder and what is in it: settings, raw files, artifact store and cache.

The path of the folder comes from `--data`, else from MMM4REC_DATA, else it is ./data.
"""

import os
import posixpath
import re
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.data_folder.raw_files import (
    concerns,
    find_raw,
    has_raw,
    lacking,
    misplaced,
    no_category,
    pairs,
    passed_over,
)
from pipelines.data_folder.raw_folder import LocalFolder, RawFolder
from pipelines.data_folder.settings import (
    AutomationSettings,
    RaySettings,
    Settings,
    StoreSettings,
    automation_of,
    located,
    overlay,
    raw_folder_of,
    ray_of,
    resolve,
    store_of,
    unfit,
)
from pipelines.data_folder.strict_yaml import read_yaml
from pipelines.errors import SettingsError
from warehouse.artifacts.artifact import ALL
from warehouse.artifacts.contract import ArtifactStore
from warehouse.artifacts.copies import Copies
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.hashes import Hashes
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.opened import is_url, open_bucket
from warehouse.artifacts.staging import unlinked
from warehouse.artifacts.store import Store
from warehouse.errors import DataError
from warehouse.raw.formats import Kind

if TYPE_CHECKING:
    from warehouse.artifacts.objects.store import Bucket

DATA_VARIABLE = "MMM4REC_DATA"
STORE_VARIABLE = "MMM4REC_STORE"
STORE_CACHE = "store"
"""Folder of the cache for local copies of artifacts in a bucket."""
RAW_CACHE = "raw"
"""Folder of the cache for local copies of raw files in a bucket."""
CATALOGUE = "warehouse.duckdb"
REPORT = "report.html"
HASHES_CACHE = "sha256"
"""Folder of the cache for the hashes of raw files."""
_NO_ADDRESS = re.compile(r"[?\\]|%[0-9A-Fa-f]{2}")
"""Characters with a special meaning in SQLAlchemy's SQLite addresses, and the backslash, which DuckDB reads as /."""
_LONGEST = 440
"""Most bytes in a data folder's path. SQLite opens paths of up to 512 bytes; the longest one below the data folder is
`.dagster/history/runs/<run>.db-journal`."""


class DataFolder:
    """A data folder: settings, raw files, artifact store and cache. The cache may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, given: Path | None = None) -> "DataFolder":
        """The data folder at `given`, else at MMM4REC_DATA, else at ./data.

        Raises:
            SettingsError: the path is not a folder, or it cannot be used as a data folder.
        """
        path = _resolved(given or Path(os.environ.get(DATA_VARIABLE) or "data"))
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            raise SettingsError(f"{there} is not a folder: name one with --data, or with {DATA_VARIABLE}")
        return cls(path)

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifacts: in the bucket of MMM4REC_STORE, else of `store` in domains.yaml, else in this folder.

        Raises:
            SettingsError: what is said there is no address of a bucket.
        """
        place = self.place
        if place is None:
            return Store(self.path)
        if not is_url(place):
            raise SettingsError(
                f"{STORE_VARIABLE if os.environ.get(STORE_VARIABLE) else 'store in domains.yaml'}: {place!r} is no "
                "address of a bucket, such as s3://bucket/prefix; artifacts in another folder are those of another "
                f"data folder: choose it with --data, or with {DATA_VARIABLE}"
            )
        return self.bucket(place)

    @property
    def place(self) -> str | None:
        """Where MMM4REC_STORE or `store` in domains.yaml says the artifacts are; None: in this folder."""
        place = os.environ.get(STORE_VARIABLE) or self._store_settings.store
        is_here = place is None or (not is_url(place) and (self.path / place).resolve() == self.path.resolve())
        return None if is_here else place

    def bucket(self, address: str, cache: Path | None = None) -> "Bucket":
        """The store in a bucket, with the settings of this folder. Local copies are in `cache`, else in this cache.

        Raises:
            SettingsError: it is no address of a bucket.
        """
        settings = self._store_settings
        limit, grace = settings.store_cache_gb << 30, settings.store_grace_hours * 3600
        try:
            return open_bucket(address, self.path, cache or self.cache / STORE_CACHE, limit, grace)
        except StoreError as error:
            raise SettingsError(str(error)) from error

    @property
    def _store_settings(self) -> StoreSettings:
        with located(self.settings_file):
            return store_of(*self._written)

    @cached_property
    def cache(self) -> Path:
        """The folder of the cache.

        Raises:
            StoreError: the cache is a link or contains one. Its files get replaced and deleted, so all must be ours.
        """
        return _without_links(self.path, self.path / "cache")

    def kept(self, name: str) -> Kept:
        """A folder of the cache, and what machines share of it."""
        return Kept(self.cache, self.store.shared).below(name)

    @cached_property
    def hashes(self) -> Hashes:
        """Hashes of raw files, remembered in the cache."""
        return Hashes(self.cache / HASHES_CACHE)

    @cached_property
    def settings(self) -> Settings:
        """The settings as the files are now, with the domains found in the raw folder."""
        shipped, given = self._written
        raw = self.raw
        with located(self.settings_file):
            return resolve(shipped, given, raw)

    @property
    def automation(self) -> AutomationSettings:
        """The settings of what runs by itself. They can be read even if other settings are wrong."""
        shipped, given = self._written
        with located(self.settings_file):
            return automation_of(shipped, given)

    @property
    def ray(self) -> RaySettings:
        """The cluster for the steps. It can be read even if other settings are wrong."""
        with located(self.settings_file):
            return ray_of(*self._written)

    @property
    def settings_file(self) -> Path:
        """The user's settings; the file may be absent."""
        return self.path / "domains.yaml"

    @property
    def _written(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of the shipped file and of the user's file."""
        if (other := self.path / "domains.yml").exists():
            raise SettingsError(f"{other} is not read, only domains.yaml is: rename it, or remove it")
        return read_yaml(Path(__file__).parent / "domains.yaml"), read_yaml(self.settings_file)

    def category(self, name: str) -> str:
        """The stem of a known domain's raw files, even if these are absent. Any other name is itself a category.

        Raises:
            SettingsError: the category cannot be part of a file name.
        """
        known = overlay(*self._written).get("domains") or {}
        category = (known.get(name) or {}).get("category", name)
        if reason := no_category(category):
            raise SettingsError(reason)
        return str(category)

    @cached_property
    def raw(self) -> RawFolder:
        """Where the raw files of all categories lie: a folder, or a place in a bucket.

        Raises:
            SettingsError: what the settings say is no address of a bucket, or obstore is not installed.
        """
        written = self._written
        place = raw_folder_of(*written)
        if not is_url(place):
            return LocalFolder(self.path / place, lambda path: self.hashes.sha256(path))
        with located(self.settings_file):
            limit = store_of(*written).store_cache_gb << 30
        # Imported here, because raw files in a folder need none of it.
        from pipelines.data_folder.raw_bucket import RawBucket

        try:
            return RawBucket(place, self.hashes, Copies(self.cache / RAW_CACHE, limit), self.kept(HASHES_CACHE).shared)
        except StoreError as error:
            raise SettingsError(f"{self.settings_file}: raw_folder: {error}") from error

    @property
    def raw_folder(self) -> Path:
        """The raw folder on this machine.

        Raises:
            SettingsError: the raw files are in a bucket.
        """
        if self.raw.path is None:
            raise SettingsError(
                f"the raw files are in {self.raw}, and this needs a folder: use a data folder whose settings name no "
                "bucket as raw_folder; you can copy its files to the bucket afterwards"
            )
        return self.raw.path

    def beside_raw(self, named: str, setting: str) -> Path:
        """The path that a setting names; it is absolute, or starts from the raw folder.

        Raises:
            SettingsError: it starts from the raw folder, which is in a bucket.
        """
        path = Path(named).expanduser()
        if path.is_absolute():
            return path
        if self.raw.path is None:
            raise SettingsError(
                f"{self.settings_file}: {setting}: {named!r} starts from the raw folder, which is {self.raw}: copy it "
                "to a folder of this machine, and give its absolute path, or one that starts with ~"
            )
        return self.raw.path / path

    @property
    def pretrained(self) -> Path | None:
        """The folder of the checkpoint that replaces pre-training, or None. If the setting names one, it must exist."""
        named = self.settings.pretrained
        if named is None:
            return None
        folder = self.path / Path(named).expanduser()
        if not (folder / "model.safetensors").is_file():
            raise SettingsError(
                f"{self.settings_file}: pretrained: there is no model.safetensors in {folder}; "
                "`mmm4rec import-checkpoint FILE` makes a folder that has one from a published .ckpt"
            )
        return folder

    @property
    def catalogue(self) -> Path:
        """The analysts' DuckDB file."""
        return self.path / CATALOGUE

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / REPORT

    def raw_file(self, domain: str, kind: Kind) -> str:
        """The name of a domain's raw file.

        Raises:
            SettingsError: there is no such domain. If files are named like it, the message says why they make none.
            DataError: the domain has no such file.
        """
        if domain not in self.settings.domains:
            files = {name: reason for name, reason in self.left_out().items() if concerns(name, [domain])}
            if files:
                reasons = "; ".join(f"{name!r} is left out: {reason}" for name, reason in files.items())
                raise SettingsError(f"there is no domain {domain!r}: {reasons}")
        category = self.settings.domain(domain).category
        name = find_raw(self.raw, category, kind)
        if name is None:
            raise DataError(
                f"domain {domain} has no {kind} file: {lacking(self.raw, category)}; put it there, then "
                f"`mmm4rec run {domain}`"
            )
        return name

    def image_root(self, domain: str) -> Path | str:
        """The folder, or the address in a bucket, to which a domain's relative picture paths refer.

        Raises:
            SettingsError: the setting leads out of the bucket's raw folder.
        """
        named = self.settings.domain(domain).image_root
        if is_url(named):
            return named
        if self.raw.path or Path(named).is_absolute():
            return (self.raw.path or Path()) / named
        below = posixpath.normpath(named)
        if below.startswith(".."):
            raise SettingsError(
                f"{self.settings_file}: {domain}: image_root: {named!r} leads out of the raw folder, which is "
                f"{self.raw}: give the whole address, or the absolute path of a folder of this machine"
            )
        return str(self.raw) if below == "." else f"{self.raw}/{below}"

    def present(self) -> list[str]:
        """The domains that have both raw files, sorted."""
        return sorted(name for name, d in self.settings.domains.items() if has_raw(self.raw, d.category))

    def missing(self) -> dict[str, str]:
        """The domains in the settings that lack a raw file -> which one, and files with similar names."""
        found = ((name, lacking(self.raw, d.category)) for name, d in sorted(self.settings.domains.items()))
        return {name: reason for name, reason in found if reason}

    def left_out(self, concerning: Collection[str] | None = None) -> dict[str, str]:
        """Raw files that are not read, and pairs that make no domain (by the metadata file): file name -> reason.

        With `concerning`, only files that are named like one of these domains or categories, or like a source domain.
        """
        named = {name: domain.category for name, domain in self.settings.domains.items()}
        found = (
            passed_over(self.raw)
            | misplaced(self.raw, LocalFolder(self.path))
            | {
                name: reason
                for name, category in pairs(self.raw)
                if category not in named.values() and (reason := unfit(category, named))
            }
        )
        if concerning is None:
            return found
        sources = [name for name, domain in self.settings.domains.items() if domain.role == "source"]
        asked = [named.get(name, name) for name in (*concerning, *sources)]
        return {name: reason for name, reason in found.items() if concerns(name, asked)}

    def damaged(self) -> list[str]:
        """The damaged artifacts that the catalogue and the report leave out; each message says how to repair it."""
        mended = {*self.present(), ALL}
        return [
            f"{key} of {domain} is damaged and left out: {why}"
            + ("" if domain in mended else f"; put its raw files back first, or `mmm4rec forget {domain}`")
            for (key, domain), why in self.store.damaged().items()
        ]

    def gone(self) -> list[str]:
        """Domains that are built, but that have no raw files and no settings any more, sorted."""
        return sorted({domain for _, domain in self.store.pointed()} - {*self.settings.domains, ALL})

    def sources(self) -> list[str]:
        """The source domains that have raw files, sorted. Pre-training learns from these."""
        return [name for name in self.present() if self.settings.domains[name].role == "source"]


def _resolved(given: Path) -> Path:
    """The absolute path, after checking that a data folder can be there."""
    try:
        path = given.resolve()
        path.exists()  # fails here if the name is too long or a parent folder may not be read
        length = len(str(path).encode())
    except UnicodeEncodeError:
        raise SettingsError(f"the data folder {str(given)!r} has a name that is not UTF-8: rename it") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise SettingsError(f"the data folder {given} cannot be used: {reason}") from None
    if _NO_ADDRESS.search(str(path)):
        raise SettingsError(
            f"the data folder {path} cannot be used: a ? in a path, a backslash, or a % before two hexadecimal digits "
            "has a special meaning for Dagster's SQLite files or for DuckDB: rename the folder that has it"
        )
    if length > _LONGEST:
        raise SettingsError(
            f"the data folder {str(path)[:60]}... cannot be used: its path has {length} bytes; SQLite, in which "
            f"Dagster keeps its runs, opens no file below a path of more than {_LONGEST} bytes: choose a shorter one"
        )
    return path


def _without_links(root: Path, folder: Path) -> Path:
    """`folder`, which is below `root`, after checking that neither it nor anything in it is a link."""
    pending = [unlinked(root, folder)]
    while pending:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    unlinked(root, Path(entry.path))
                # Folders with names of two letters hold up to a million pictures; these are only read or replaced.
                elif entry.is_dir() and len(entry.name) > 2:
                    pending.append(Path(entry.path))
    return folder
