"""The data folder: its settings, its raw files, its artifact store and its cache, each found from its path.

It is given by `--data`, else MMM4REC_DATA, else ./data.
"""

import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.data_folder.raw_files import find_raw, has_raw, misplaced, names, pairs, passed_over
from pipelines.data_folder.settings import (
    AutomationSettings,
    Settings,
    automation_of,
    overlay,
    resolve,
    store_of,
    unfit,
)
from pipelines.data_folder.strict_yaml import read_yaml
from pipelines.errors import SettingsError
from warehouse.artifacts.artifact import ALL
from warehouse.artifacts.contract import ArtifactStore
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.hashes import Hashes
from warehouse.artifacts.opened import is_url, open_store
from warehouse.artifacts.staging import unlinked
from warehouse.artifacts.store import Store
from warehouse.errors import DataError
from warehouse.raw.formats import Kind

DATA_VARIABLE = "MMM4REC_DATA"
STORE_VARIABLE = "MMM4REC_STORE"
STORE_CACHE = "store"
"""Folder of the cache for local copies of files in a bucket."""
CATALOGUE = "warehouse.duckdb"
REPORT = "report.html"
_NO_ADDRESS = re.compile(r"[?\\]|%[0-9A-Fa-f]{2}")
"""What SQLAlchemy's addresses of SQLite files mean something by, and what DuckDB takes for a slash."""
_LONGEST = 440
"""Bytes of a data folder's path: SQLite opens paths of up to 512, `.dagster/history/runs/<run>.db-journal` included."""
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._&-]{0,127}")


class DataFolder:
    """A data folder: its settings, its raw files, its artifact store and a cache, which may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, given: Path | None = None) -> "DataFolder":
        """The one at `given`, else at MMM4REC_DATA, else at ./data.

        Raises:
            SettingsError: there is something else than a folder, or no folder of that name can be used.
        """
        path = _resolved(given or Path(os.environ.get(DATA_VARIABLE) or "data"))
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            raise SettingsError(f"{there} is no folder: name one with --data, or with {DATA_VARIABLE}")
        return cls(path)

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifacts: in the bucket of MMM4REC_STORE, else of `store` in domains.yaml, else in this folder.

        Raises:
            SettingsError: what is said there is no address of a bucket.
        """
        told = os.environ.get(STORE_VARIABLE)
        settings = store_of(*self._written)
        place = told or settings.store
        if place is None or (not is_url(place) and (self.path / place).resolve() == self.path.resolve()):
            return Store(self.path)
        if not is_url(place):
            raise SettingsError(
                f"{STORE_VARIABLE if told else 'store in domains.yaml'}: {place!r} is no address of a bucket, such as "
                "s3://bucket/prefix; artifacts in another folder are those of another data folder: choose it with "
                f"--data, or with {DATA_VARIABLE}"
            )
        try:
            return open_store(
                place,
                self.path,
                self.cache / STORE_CACHE,
                settings.store_cache_gb << 30,
                settings.store_grace_hours * 3600,
            )
        except StoreError as error:
            raise SettingsError(str(error)) from error

    @cached_property
    def cache(self) -> Path:
        """The folder of the cache.

        Raises:
            StoreError: it is a link, or there is one in it: what is replaced or removed there is to be ours.
        """
        return _without_links(self.path, self.path / "cache")

    @cached_property
    def hashes(self) -> Hashes:
        """Hashes of raw files, remembered in the cache."""
        return Hashes(self.cache / "sha256")

    @cached_property
    def settings(self) -> Settings:
        """The settings as the files say now, with domains found in the raw folder."""
        return resolve(*self._written, self.path)

    @property
    def automation(self) -> AutomationSettings:
        """What is to go on by itself, also where something else in the settings cannot be used."""
        return automation_of(*self._written)

    @property
    def _written(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the shipped file says, and what the user's."""
        if (other := self.path / "domains.yml").exists():
            raise SettingsError(f"{other} is not read: the settings are in domains.yaml; rename it, or remove it")
        return read_yaml(Path(__file__).parent / "domains.yaml"), read_yaml(self.path / "domains.yaml")

    def category(self, name: str) -> str:
        """The stem of the raw files of a known domain, at hand or not; any other name is a category itself.

        Raises:
            SettingsError: it is no plain file name.
        """
        known = overlay(*self._written).get("domains") or {}
        category = str((known.get(name) or {}).get("category", name))
        if not _CATEGORY.fullmatch(category):
            raise SettingsError(
                f"{category!r} is no category: a letter or digit, then letters, digits and . _ - &; categories are "
                "named as their files are, such as Magazine_Subscriptions"
            )
        return category

    @property
    def raw_folder(self) -> Path:
        """Where the raw files of all categories lie."""
        return self.path / self.settings.raw_folder

    @property
    def pretrained(self) -> Path | None:
        """The folder of the checkpoint that is given in place of pre-training, or None; absence is an error."""
        named = self.settings.pretrained
        if named is None:
            return None
        folder = self.path / Path(named).expanduser()
        if not (folder / "model.safetensors").is_file():
            raise SettingsError(
                f"pretrained in domains.yaml: there is no model.safetensors in {folder}; "
                "`mmm4rec import-checkpoint FILE` makes such a folder of a published .ckpt"
            )
        return folder

    @property
    def catalogue(self) -> Path:
        """The analysts' DuckDB file."""
        return self.path / CATALOGUE

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / REPORT

    def raw_file(self, domain: str, kind: Kind) -> Path:
        """The raw file of a domain; absence is an error."""
        category = self.settings.domain(domain).category
        path = find_raw(self.raw_folder, category, kind)
        if path is None:
            wanted = " or ".join(names(category, kind))
            raise DataError(
                f"domain {domain} has no {kind} file: put {wanted} into {self.raw_folder}, then `mmm4rec run {domain}`"
            )
        return path

    def image_root(self, domain: str) -> Path:
        """The folder that relative picture paths of a domain start from."""
        return self.raw_folder / self.settings.domain(domain).image_root

    def present(self) -> list[str]:
        """Domains with both raw files at hand, sorted."""
        return sorted(name for name, d in self.settings.domains.items() if has_raw(self.raw_folder, d.category))

    def left_out(self) -> dict[str, str]:
        """Raw files that are not read, and pairs that make no domain (by their metadata): the reason by name."""
        named = {name: domain.category for name, domain in self.settings.domains.items()}
        return (
            passed_over(self.raw_folder)
            | misplaced(self.raw_folder, self.path)
            | {
                path.name: reason
                for path, category in pairs(self.raw_folder)
                if category not in named.values() and (reason := unfit(category, named))
            }
        )

    def damaged(self) -> list[str]:
        """What is left out of catalogue and report, since it is damaged, each with what mends it."""
        mended = {*self.present(), ALL}
        return [
            f"{key} of {domain} is damaged and left out: {why}"
            + ("" if domain in mended else f"; put its raw files back first, or `mmm4rec forget {domain}`")
            for (key, domain), why in self.store.damaged().items()
        ]

    def gone(self) -> list[str]:
        """Domains that are built, and that neither raw files nor settings name any more, sorted."""
        return sorted({domain for _, domain in self.store.pointed()} - {*self.settings.domains, ALL})

    def sources(self) -> list[str]:
        """The source domains with raw files at hand, sorted: what pre-training learns from."""
        return [name for name in self.present() if self.settings.domains[name].role == "source"]


def _resolved(given: Path) -> Path:
    """The whole path, once it is sure that a data folder can be there."""
    try:
        path = given.resolve()
        path.exists()  # a name that is too long, or a folder that may not be looked into, is told now
        length = len(str(path).encode())
    except UnicodeEncodeError:
        raise SettingsError(f"the data folder {str(given)!r} has a name that is not UTF-8: rename it") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise SettingsError(f"the data folder {given} cannot be used: {reason}") from None
    if _NO_ADDRESS.search(str(path)):
        raise SettingsError(
            f"the data folder {path} cannot be used: a ? in a path, a backslash, or a % before two hexadecimal digits "
            "is something else to Dagster's SQLite files or to DuckDB: rename that folder"
        )
    if length > _LONGEST:
        raise SettingsError(
            f"the data folder {str(path)[:60]}... cannot be used: its path has {length} bytes, and beyond {_LONGEST} "
            "SQLite, in which Dagster keeps its runs, opens no file below it: choose a shorter one"
        )
    return path


def _without_links(root: Path, folder: Path) -> Path:
    """`folder`, which lies below `root`, if neither it nor anything in it is a link."""
    pending = [unlinked(root, folder)]
    while pending:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    unlinked(root, Path(entry.path))
                # Folders of two letters hold pictures, a million of them perhaps: these are only ever read or replaced.
                elif entry.is_dir() and len(entry.name) > 2:
                    pending.append(Path(entry.path))
    return folder
