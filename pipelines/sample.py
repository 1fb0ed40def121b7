"""The sample catalogue in a data folder: raw files from the generator, and settings for its size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from features.sample import Size, write_sample
from pipelines.errors import CommandError
from pipelines.planner.code_version import code_version
from warehouse.artifacts.durable import write_durably

_MARK = "sample.json"


def write(data: Path, seed: int, size: Size) -> tuple[dict[str, Any], bool]:
    """Write the catalogue unless the same one exists. Return its summary, and whether it was written.

    Settings that the user has changed are kept. If the raw folder contains other files, it is an error.
    """
    raw = data / "raw_files"
    mark = raw / _MARK
    made_by = {"seed": seed, "size": size, "code_version": code_version("features.sample:write_sample")}
    if mark.exists():
        known: dict[str, Any] = json.loads(mark.read_text())
        if known["made_by"] == made_by:
            return known["summary"], False
    elif raw.exists() and any(raw.iterdir()):
        raise CommandError(
            f"{raw} holds other files; the sample needs a data folder of its own: `mmm4rec sample --data FOLDER`"
        )
    raw.mkdir(parents=True, exist_ok=True)
    # The mark is removed first and written last, so that it exists only beside a complete catalogue.
    mark.unlink(missing_ok=True)
    summary = dataclasses.asdict(write_sample(raw, seed=seed, size=size))
    settings = data / "domains.yaml"
    if not settings.exists():
        settings.write_text((Path(__file__).parent / "sample.yaml").read_text())
    write_durably(mark, json.dumps({"made_by": made_by, "summary": summary}, indent=1))
    return summary, True
