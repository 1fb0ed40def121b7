"""The settings: which domains exist, where their raw files are, and how each domain is filtered, embedded and trained.

`<data>/domains.yaml` is laid over the shipped `domains.yaml`, which lists the published domains. A pair of raw files
for a category that neither file names becomes a target domain with the default settings.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, assert_never

from features.settings import EncoderSettings, Fetching, unread
from mmm4rec.baselines.config import BaselineSettings, RequestedBaselines
from mmm4rec.baselines.config import resolve as resolve_baselines
from mmm4rec.config import ModelConfig, RecommendationConfig, TrainConfig, nearest, read_config
from mmm4rec.errors import ConfigError
from pipelines.data_folder.raw_files import has_raw, no_category, pairs
from pipelines.data_folder.raw_folder import RawFolder
from pipelines.errors import SettingsError
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.store import ALL, check_domain
from warehouse.core.settings import LEAVE_ONE_OUT, GlobalTimeSplit, SplitName, SplitRule, Wanted
from warehouse.errors import DataError


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
    split: SplitName = "leave_one_out"
    validation_from: str | None = None
    test_from: str | None = None
    max_length: int | None = None
    image_root: str = "."
    pictures: Fetching = field(default_factory=Fetching)
    text_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    image_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    published: Statistics | None = None

    def __post_init__(self) -> None:
        if self.split != "global_time" and (self.validation_from or self.test_from):
            raise SettingsError(f"{self.category}: validation_from and test_from need split: global_time")
        self.wanted, self.split_rule  # noqa: B018 - an invalid date is reported here, before anything runs

    @property
    def wanted(self) -> Wanted:
        """Which ratings the domain learns from."""
        return Wanted(self.minimum_rating, _seconds("since", self.since), _seconds("until", self.until))

    @property
    def split_rule(self) -> SplitRule:
        """The rule that `split` names, with what it needs."""
        match self.split:
            case "leave_one_out":
                return LEAVE_ONE_OUT
            case "global_time":
                return self._global_time
            case _:
                assert_never(self.split)

    @property
    def _global_time(self) -> GlobalTimeSplit:
        validation_from = _seconds("validation_from", self.validation_from)
        test_from = _seconds("test_from", self.test_from)
        if validation_from is None or test_from is None:
            raise SettingsError(f"{self.category}: split: global_time needs the dates validation_from and test_from")
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
class RaySettings:
    """What a Ray cluster does.

    With `address`, that of its dashboard such as http://head:8265, steps run there (`pipelines.running.on_ray`). A step
    asks for `cpus` cores; one that trains or encodes (the pool gpu) also for `gpus` GPUs.

    With `nodes`, an address such as head:6379 or `auto` for the cluster that the step itself runs on, its nodes encode
    texts and pictures, and train where `devices` is above 1 (`features.vectors.cluster`, `pipelines.ranks`).
    """

    address: str | None = None
    nodes: str | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.address is not None and not self.address.startswith(("http://", "https://")):
            raise SettingsError(
                f"ray: address: {self.address!r} is not the address of a Ray dashboard, such as http://head:8265"
            )
        if not self.cpus > 0:
            raise SettingsError(f"ray: cpus: {self.cpus} is not above 0; Ray starts a step without cores on its head")
        if not self.gpus >= 0:
            raise SettingsError(f"ray: gpus: {self.gpus} is less than 0")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the artifacts are. `store` is the address of a bucket, such as s3://bucket/prefix; without one they are in
    the data folder.

    `store_cache_gb`: how large the local copies of files in a bucket may become, of artifacts and of raw files each.
    `store_grace_hours`: for a new bucket, the time from the first look of a garbage collection to the one that may
    remove a version.
    """

    store: str | None = None
    store_cache_gb: int = 100
    store_grace_hours: int = 24

    def __post_init__(self) -> None:
        for name, value in (("store_cache_gb", self.store_cache_gb), ("store_grace_hours", self.store_grace_hours)):
            if value < 1:
                raise SettingsError(f"{name}: {value} is less than 1")


@dataclass(frozen=True)
class Settings(StoreSettings):
    """All settings, resolved.

    `raw_folder` is absolute, or relative to the data folder, or the address of a place in a bucket. `mmm4rec fetch`
    takes raw files from `location`: an address, or a folder that is absolute or relative to the data folder.
    `pretrained` is a folder, given in the same way, with a checkpoint to fine-tune from; it replaces pre-training on
    the source domains.
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
    ray: RaySettings = field(default_factory=RaySettings)
    baselines: dict[str, BaselineSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
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


def resolve(shipped: Mapping[str, Any], given: Mapping[str, Any], folder: RawFolder) -> Settings:
    """Overlay the shipped settings with the user's, and add the categories found in the raw folder, `folder`.

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
        if reason := no_category(_mapping(settings, f"domains: {name}").get("category", name)):
            raise SettingsError(f"{name}: {reason}")
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


def ray_of(shipped: Mapping[str, Any], given: Mapping[str, Any]) -> RaySettings:
    """Only the section `ray` of the shipped settings, overlaid with the user's."""
    return read_config(RaySettings, _mapping(overlay(shipped, given).get("ray"), "ray"), where="ray")


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Put the path of the settings file before the message of an error in the settings."""
    try:
        yield
    except (ConfigError, SettingsError) as error:
        raise type(error)(f"{path}: {str(error).removeprefix('Settings: ')}") from error


def raw_folder_of(shipped: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Where the raw files are, by the shipped settings overlaid with the user's; the rest is not looked at."""
    return str(overlay(shipped, given).get("raw_folder", "raw_files"))


def store_of(shipped: Mapping[str, Any], given: Mapping[str, Any]) -> StoreSettings:
    """Where the artifacts are, by the shipped settings overlaid with the user's; the rest is not looked at."""
    names = {each.name for each in fields(StoreSettings)}
    said = {name: value for name, value in overlay(shipped, given).items() if name in names}
    return read_config(StoreSettings, said, where="Settings")


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
