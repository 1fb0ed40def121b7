"""Settings: which domains there are, where their raw files lie, and how each is filtered, embedded and trained.

They come from the shipped `domains.yaml` (the published domains) overlaid by `<data>/domains.yaml`. A pair of raw
files for a category that neither names becomes a target domain with the defaults. The data folder itself is given by
`--data`, else MMM4REC_DATA, else ./data.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from features.encoders import EncoderSettings
from mmm4rec.config import ModelConfig, TrainConfig, read_config
from warehouse.errors import WarehouseError
from warehouse.store import Store, check_domain

DATA_VARIABLE = "MMM4REC_DATA"
CATALOGUE = "warehouse.duckdb"
REPORT = "report.html"
RATINGS = ("{}.csv", "{}.csv.gz")
METADATA = ("meta_{}.json.gz", "meta_{}.json")


@dataclass(frozen=True)
class Statistics:
    """Published counts of a domain after the 5-core."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class DomainSettings:
    """One domain. `category` is the stem of its raw files, `image_root` the folder its picture paths start from."""

    category: str
    role: Literal["source", "target"] = "target"
    k: int = 5
    image_root: str = "."
    text_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    image_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    published: Statistics | None = None


@dataclass(frozen=True)
class Settings:
    """The whole, resolved. `raw_folder` is relative to the data folder unless absolute."""

    raw_folder: str
    model: ModelConfig
    pretraining: TrainConfig
    finetuning: TrainConfig
    domains: dict[str, DomainSettings]

    def domain(self, name: str) -> DomainSettings:
        """The settings of a domain; an unknown one is an error that lists those known."""
        if name not in self.domains:
            raise WarehouseError(
                f"there is no domain {name!r}; known: {', '.join(sorted(self.domains)) or 'none'}. "
                "Put its raw files into the raw folder (`mmm4rec domains` names it), or write the sample "
                "catalogue with `mmm4rec sample`"
            )
        return self.domains[name]


class House:
    """A data folder: its settings, its raw files and its artifact store."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.store = Store(data)

    @cached_property
    def settings(self) -> Settings:
        """The settings as the files say now, with domains found in the raw folder."""
        shipped = _read_yaml(Path(__file__).parent / "domains.yaml")
        return resolve(shipped, _read_yaml(self.data / "domains.yaml"), self.data)

    @property
    def raw_folder(self) -> Path:
        """Where the raw files of all categories lie."""
        return self.data / self.settings.raw_folder

    @property
    def catalogue(self) -> Path:
        """The analysts' DuckDB file."""
        return self.data / CATALOGUE

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.data / REPORT

    def raw_file(self, domain: str, kind: Literal["ratings", "metadata"]) -> Path:
        """The raw file of a domain; absence is an error."""
        category = self.settings.domain(domain).category
        path = find_raw(self.raw_folder, category, kind)
        if path is None:
            names = " or ".join(p.format(category) for p in (RATINGS if kind == "ratings" else METADATA))
            raise WarehouseError(
                f"domain {domain} has no {kind} file: put {names} into {self.raw_folder}, then `mmm4rec run {domain}`"
            )
        return path

    def image_root(self, domain: str) -> Path:
        """The folder that relative picture paths of a domain start from."""
        return self.raw_folder / self.settings.domain(domain).image_root

    def present(self) -> list[str]:
        """Domains with both raw files at hand, sorted."""
        return sorted(name for name, d in self.settings.domains.items() if has_raw(self.raw_folder, d.category))

    def sources(self) -> list[str]:
        """The source domains with raw files at hand, sorted: what pre-training learns from."""
        return [name for name in self.present() if self.settings.domains[name].role == "source"]


def data_folder(given: Path | None = None) -> Path:
    """The data folder: `given`, else MMM4REC_DATA, else ./data; absolute."""
    return (given or Path(os.environ.get(DATA_VARIABLE) or "data")).resolve()


def find_raw(folder: Path, category: str, kind: Literal["ratings", "metadata"]) -> Path | None:
    """The first of the accepted names that exists, or None."""
    patterns = RATINGS if kind == "ratings" else METADATA
    return next((p for p in (folder / pattern.format(category) for pattern in patterns) if p.is_file()), None)


def has_raw(folder: Path, category: str) -> bool:
    """Whether a category's ratings and metadata are both there."""
    return bool(find_raw(folder, category, "ratings") and find_raw(folder, category, "metadata"))


def resolve(shipped: Mapping[str, Any], given: Mapping[str, Any], data: Path) -> Settings:
    """Overlay the shipped settings with the user's, and add the categories found in the raw folder."""
    merged = _overlay(shipped, given)
    defaults = merged.pop("defaults", {})
    named: dict[str, Any] = {
        name: _overlay(defaults, {"category": name, **(settings or {})})
        for name, settings in merged.pop("domains", {}).items()
    }
    folder = data / str(merged.get("raw_folder", "raw_files"))
    # A published domain whose files are absent, and which the user does not name, is knowledge and no domain.
    asked = given.get("domains") or {}
    named = {name: s for name, s in named.items() if name in asked or has_raw(folder, s["category"])}
    taken = {settings["category"] for settings in named.values()}
    for path in sorted(folder.glob("meta_*.json*")):
        category = path.name.removeprefix("meta_").removesuffix(".gz").removesuffix(".json")
        if category not in taken and has_raw(folder, category):
            named[category] = _overlay(defaults, {"category": category})
            taken.add(category)
    for name in named:
        check_domain(name)
    return read_config(Settings, {**merged, "domains": named}, where="domains.yaml")


def as_parameters(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON values, for a recipe."""
    return asdict(settings)


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; an absent or empty file is an empty one."""
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WarehouseError(f"{path} is not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise WarehouseError(f"{path} must hold a mapping at its top, not a {type(content).__name__}")
    return content or {}
