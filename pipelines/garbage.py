"""Garbage collection of a data folder: data that its store does not need, and the cache of removed data.

The store decides what it needs. Cache entries of versions or recipes that no longer exist are removed: mapped copies,
logs and unfinished states of trainings; and copies of raw files in a bucket. Pictures and vectors were costly, and an
earlier encoder may be used again, so they stay until a person removes them, also where machines share them in a bucket
(docs/decisions/0007).
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.data_folder.folder import RAW_CACHE, DataFolder
from pipelines.errors import EXPECTED
from warehouse.artifacts.contract import Leftover
from warehouse.artifacts.copies import Copies
from warehouse.artifacts.garbage import size
from warehouse.artifacts.lineage import named
from warehouse.artifacts.locks import is_held
from warehouse.artifacts.manifest import VERSION

__all__ = ["collect"]

_BY_RECIPE = ("training", "logs")
"""Cache folders with one folder per recipe: the recipe of a step, or of one of its trainings."""
_DIGEST = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
"""The names of those folders; folders with other names are never removed."""


def collect(data_folder: DataFolder, dry_run: bool = False) -> list[Leftover]:
    """Remove unneeded data and return what was removed. With `dry_run`, only return it."""
    found = data_folder.store.collect(dry_run)
    gone = {leftover.name for leftover in found if leftover.kind == "version"}
    kept = {version: made for version, made in data_folder.store.versions().items() if named(version) not in gone}
    folders = [*_copies_of_removed_versions(data_folder, {version for _, _, version in kept})]
    if any(folder for name in _BY_RECIPE for folder in (data_folder.cache / name).glob("*")):
        recipes = {artifact.manifest.recipe for artifact in kept.values() if artifact}
        folders += _leftovers_of_trainings(
            data_folder, recipes | data_folder.store.building() | _recipes_to_build(data_folder)
        )
    for folder in folders:
        found.append(Leftover("cache", str(folder.relative_to(data_folder.path)), size(folder)))
        if not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    for path in Copies(data_folder.cache / RAW_CACHE, 0).unused():
        found.append(Leftover("cache", str(path.relative_to(data_folder.path)), path.stat().st_size))
        if not dry_run:
            path.unlink(missing_ok=True)
    return found


def _copies_of_removed_versions(data_folder: DataFolder, versions: set[str]) -> Iterator[Path]:
    """Mapped copies of tables that no longer exist: `lookup/<domain>/<view>/<version>`."""
    for folder in sorted((data_folder.cache / "lookup").glob("*/*/*")):
        if VERSION.fullmatch(folder.name) and folder.name not in versions:
            yield folder


def _leftovers_of_trainings(data_folder: DataFolder, recipes: set[str]) -> Iterator[Path]:
    """Leftovers of trainings whose recipe is neither built nor due. A process may still be working on one of them."""
    for name in _BY_RECIPE:
        for folder in sorted((data_folder.cache / name).glob("*")):
            if _DIGEST.fullmatch(folder.name) and folder.name not in recipes and not is_held(folder / "lock"):
                yield folder


def _recipes_to_build(data_folder: DataFolder) -> set[str]:
    """Digests of the recipes that the next run would train. A training that was killed continues from its state."""
    from pipelines.assets import models  # declares the steps; loads torch, so it is imported only here
    from pipelines.planner.step import all_steps

    found = set()
    for step in all_steps().values():
        if step.key.startswith("models/"):
            for domain in step.domains(data_folder, data_folder.present()):
                try:
                    inputs = step.inputs(data_folder, domain)
                    found.add(step.recipe(data_folder, domain, inputs).digest)
                    if step.key == "models/baselines":
                        found |= {one.digest for one in models.baseline_recipes(data_folder, inputs).values()}
                except EXPECTED:
                    continue  # its inputs must be built first, which may give another recipe
    return found
