"""The settings: which domains exist, where their raw files are, and how each domain is filtered, embedded and trained.

`<data>/domains.yaml` is laid over the shipped `domains.yaml`, which lists the published domains. A pair of raw files
for a category that neither file names becomes a target domain with the default settings.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from features.settings import EncoderSettings, Fetching, unread
from mmm4rec.baselines.config import BaselineSettings, RequestedBaselines
from mmm4rec.baselines.config import resolve as resolve_baselines
from mmm4rec.config import ModelConfig, RecommendationConfig, TrainConfig, nearest, read_config
from mmm4rec.errors import ConfigError
from pipelines.data_folder.raw_files import has_raw, pairs
from pipelines.errors import SettingsError
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import ALL, check_domain
from warehouse.core.settings import GlobalTimeSplit, Wanted
from warehouse.errors import DataError

_STEM = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+")
_LONGEST_STEM = 200
"""In bytes. A file name may have 255, and a raw file's name has a prefix and an ending besides the stem."""


@dataclass(frozen=True)
class Statistics:
    """The published counts of a domain after 5-core filtering."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class DomainSettings:
    """The settings of one domain.

    `category` is the stem of its raw files' names. Relative picture paths start from `image_root`. Dates are written
    YYYY-MM-DD and mean midnight UTC; `since` is included, `until` is not.
    """

    category: str
    role: Literal["source", "target"] = "target"
    k: int = 5
    minimum_rating: float | None = None
    since: str | None = None
    until: str | None = None
    split: Literal["leave_one_out", "global_time"] = "leave_one_out"
    validation_from: str | None = None
    test_from: str | None = None
    max_length: int | None = None
    image_root: str = "."
    pictures: Fetching = field(default_factory=Fetching)
    text_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    image_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    published: Statistics | None = None

    def __post_init__(self) -> None:
        dates = {"validation_from": self.validation_from, "test_from": self.test_from}
        if self.split == "global_time" and None in dates.values():
            raise SettingsError(f"{self.category}: split: global_time needs the dates validation_from and test_from")
        if self.split != "global_time" and any(dates.values()):
            raise SettingsError(f"{self.category}: validation_from and test_from need split: global_time")
        self.wanted, self.time_split  # noqa: B018 - an invalid date is reported here, before anything runs

    @property
    def wanted(self) -> Wanted:
        """Which ratings the domain learns from."""
        return Wanted(self.minimum_rating, _seconds("since", self.since), _seconds("until", self.until))

    @property
    def time_split(self) -> GlobalTimeSplit | None:
        """The dates of a global time split; None for leave-one-out."""
        validation_from = _seconds("validation_from", self.validation_from)
        test_from = _seconds("test_from", self.test_from)
        if validation_from is None or test_from is None:
            return None
        try:
            return GlobalTimeSplit(validation_from, test_from)
        except DataError as error:
            raise SettingsError(f"{self.category}: {error}") from error


@dataclass(frozen=True)
class AutomationSettings:
    """What Dagster's daemon does by itself: see `pipelines.running.automation`. Switches in the UI override `enabled`.

    `interval`: seconds between two looks at the raw folder. `rebuild` and `housekeeping`: cron expressions, UTC.
    """

    enabled: bool = False
    interval: int = 30
    rebuild: str = "0 3 * * 0"
    housekeeping: str = "0 5 * * 0"

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise SettingsError(f"automation: interval: {self.interval} is not a number of seconds of 1 or more")


@dataclass(frozen=True)
class Settings:
    """All settings, resolved.

    `raw_folder` is absolute, or relative to the data folder. `mmm4rec fetch` takes raw files from `location`: an
    address, or a folder given in the same way as `raw_folder`. `pretrained` is a folder, given in the same way, with a
    checkpoint to fine-tune from; it replaces pre-training on the source domains.
    """

    raw_folder: str
    location: str
    model: ModelConfig
    pretraining: TrainConfig
    finetuning: TrainConfig
    domains: dict[str, DomainSettings]
    recommendations: RecommendationConfig = field(default_factory=RecommendationConfig)
    pretrained: str | None = None
    automation: AutomationSettings = field(default_factory=AutomationSettings)
    baselines: dict[str, BaselineSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.asked  # noqa: B018 - an unknown baseline or setting is reported here, before anything runs

    @property
    def asked(self) -> RequestedBaselines:
        """The requested baselines, with the history length and the fine-tuning settings that all models share."""
        return resolve_baselines(self.baselines, self.finetuning, self.model.length)

    def domain(self, name: str) -> DomainSettings:
        """The settings of a domain. The error for an unknown domain lists the known ones."""
        if name not in self.domains:
            raise SettingsError(
                f"there is no domain {name!r}{nearest(name, list(self.domains))}; "
                f"known: {', '.join(sorted(self.domains)) or 'none'}. "
                "Put its raw files into the raw folder (`mmm4rec domains` names it), or write the sample "
                "catalogue with `mmm4rec sample`"
            )
        return self.domains[name]


def resolve(shipped: Mapping[str, Any], given: Mapping[str, Any], data: Path) -> Settings:
    """Overlay the shipped settings with the user's, and add the categories found in the raw folder.

    A name in the settings that cannot name a domain is an error. A raw file with an unusable name is only left out, so
    that it does not stop the other domains: see `DataFolder.left_out`. Messages of errors name no file: see `located`.
    """
    known = [*(setting.name for setting in fields(Settings)), "defaults"]
    for key in given:
        if key not in known:
            meant = nearest(str(key), known)
            raise SettingsError(f"unknown setting {str(key)[:80]!r}{meant}; known: {', '.join(known)}")
    asked = _mapping(given.get("domains"), "domains")
    for name, settings in asked.items():
        if reason := unfit(name):
            raise SettingsError(reason)
        _check_stem(name, _mapping(settings, f"domains: {name}").get("category", name))
    merged = overlay(shipped, {**given, "domains": asked})
    defaults = _mapping(merged.pop("defaults", {}), "defaults")
    named: dict[str, Any] = {
        name: overlay(defaults, {"category": name, **(settings or {})})
        for name, settings in merged.pop("domains", {}).items()
    }
    # A name without settings asks for the baseline as published.
    merged["baselines"] = {
        name: settings or {} for name, settings in _mapping(merged.get("baselines"), "baselines").items()
    }
    folder = data / str(merged.get("raw_folder", "raw_files"))
    # A published domain without files, which the user does not name either, is known but is not a domain here.
    named = {name: s for name, s in named.items() if name in asked or has_raw(folder, s["category"])}
    taken = {settings["category"] for settings in named.values()}
    for _, category in pairs(folder):
        if category not in taken and not unfit(category, named):
            named[category] = overlay(defaults, {"category": category})
    for modality in ("text", "image"):
        _check_encoders(modality, given, defaults, named)
    return read_config(Settings, {**merged, "domains": named})


def automation_of(shipped: Mapping[str, Any], given: Mapping[str, Any]) -> AutomationSettings:
    """Only the section `automation` of the shipped settings, overlaid with the user's."""
    section = _mapping(overlay(shipped, given).get("automation"), "automation")
    return read_config(AutomationSettings, section, where="automation")


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Put the path of the settings file before the message of an error in the settings."""
    try:
        yield
    except (ConfigError, SettingsError) as error:
        raise type(error)(f"{path}: {str(error).removeprefix('Settings: ')}") from error


def _check_encoders(
    modality: Literal["text", "image"], given: Mapping[str, Any], defaults: Mapping[str, Any], named: Mapping[str, Any]
) -> None:
    """Refuse encoder settings of the user that the kind of encoder in force would ignore.

    Settings under `defaults` may be for some domains only. One domain's encoder, or the default one, must read them.
    """
    key = f"{modality}_encoder"

    def of(settings: Any) -> dict[str, Any]:
        found = settings.get(key) if isinstance(settings, Mapping) else None
        return found if isinstance(found, dict) else {}

    def kind(settings: Any) -> str:
        return str(of(settings).get("kind", EncoderSettings.kind))

    kinds = {kind(settings) for settings in (defaults, *named.values())}
    layers = [("defaults", of(given.get("defaults")), kind(defaults), kinds)]
    for name, settings in (given.get("domains") or {}).items():
        layers.append((name, of(settings), kind(named[name]), {kind(named[name])}))
    for where, said, in_force, readers in layers:
        idle = [name for name in said if all(unread(reader, [name], modality) for reader in readers)]
        if idle:
            raise SettingsError(
                f"{where}: {key}: {idle[0]}: {said[idle[0]]!r} would be ignored, because an encoder of "
                f"kind {in_force} does not read it; also set the `kind` that reads it, or remove it"
            )


def _seconds(name: str, date: str | None) -> int | None:
    """Midnight UTC of a date, in Unix seconds."""
    if date is None:
        return None
    try:
        return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise SettingsError(f"{name}: {date!r} is not a date; write it as YYYY-MM-DD") from None


def unfit(name: Any, taken: Collection[str] = ()) -> str | None:
    """Why this cannot name a domain, or None. The name may come from a file, so messages quote and escape it."""
    if not isinstance(name, str):
        return f"{name!r} is not a domain name: names are texts; put it in quotes"
    if name == ALL:
        return f"{name!r} is not a domain name: it means all domains; give the category another in domains.yaml"
    if name in taken:
        return f"{name!r} is already the name of a domain with other raw files; give the category another"
    try:
        check_domain(name)
    except StoreError as error:
        return str(error)
    return None


def _check_stem(domain: str, category: Any) -> None:
    """Refuse a category that cannot be part of a file name in the raw folder."""
    if isinstance(category, str) and _STEM.fullmatch(category) and len(category.encode()) <= _LONGEST_STEM:
        return
    raise SettingsError(
        f"category {str(category)[:80]!r} of {domain} cannot be part of a file name: give the name of "
        f"the raw files without meta_ and endings, {_LONGEST_STEM} bytes at most"
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping from the settings. None becomes an empty mapping."""
    if value is not None and not isinstance(value, dict):
        raise SettingsError(f"{where} must be a mapping, not a {type(value).__name__}")
    return value or {}


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it; nested mappings are merged."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
