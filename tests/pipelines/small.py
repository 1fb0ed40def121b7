"""A shop of small categories that is built in seconds: no encoders, a tiny model, one epoch."""

from pathlib import Path
from typing import Any

import yaml

from tests.warehouse.work import write_raw

SETTINGS: dict[str, Any] = {
    "model": {"hidden": 16, "inner": 16, "head_width": 8, "state": 8, "groups": 1},
    "pretraining": {"epochs": 1, "batch_size": 32, "accumulate": 1},
    "finetuning": {"epochs": 1, "batch_size": 32, "accumulate": 1},
    "defaults": {"k": 3, "text_encoder": {"kind": "none"}, "image_encoder": {"kind": "none"}},
}

LONG = {"epochs": 5000, "patience": None, "batch_size": 32, "accumulate": 1}
"""So much fine-tuning that it is always disturbed before its end."""


def write_settings(data: Path, **more: Any) -> None:
    """The settings of the shop, with some more."""
    data.mkdir(parents=True, exist_ok=True)
    (data / "domains.yaml").write_text(yaml.safe_dump({**SETTINGS, **more}))


def write_shop(data: Path, *targets: str, sources: tuple[str, ...] = (), **more: Any) -> None:
    """Raw files of categories, and the settings."""
    write_settings(data, domains={source: {"role": "source"} for source in sources}, **more)
    for domain in (*targets, *sources):
        write_raw(data / "raw_files", domain, 0)
