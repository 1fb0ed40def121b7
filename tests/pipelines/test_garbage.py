"""`mmm4rec gc` over a data folder: versions, staging and cache; pins from the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipelines.assets import core, raw  # noqa: F401 - declare their steps
from pipelines.assets.models import DATA, baseline_recipes
from pipelines.data_folder.folder import DataFolder
from pipelines.garbage import collect
from pipelines.planner.step import Job, all_steps
from tests.conftest import Cli
from tests.pipelines.small import write_settings, write_shop
from tests.warehouse.work import write_raw
from warehouse.artifacts.lineage import named
from warehouse.artifacts.locks import held
from warehouse.artifacts.store import ALL, Store, recipe

STEPS = all_steps()


def _published(data: Path, generation: int) -> str:
    """Raw ratings of another generation; returns the version."""
    write_raw(data / "raw_files", "Toys", generation)
    return STEPS["raw/ratings"].publish(DataFolder(data), "Toys")[0].version


def test_pins_and_gc_from_the_command_line(cli: Cli) -> None:
    old, new = _published(cli.data, 0), _published(cli.data, 1)
    named = f"raw/ratings@Toys:{old}"
    assert json.loads(cli("pin", old[:8], "--json").stdout) == [named]
    assert json.loads(cli("gc", "--json").stdout) == []
    assert json.loads(cli("unpin", named, "--json").stdout) == []
    (planned,) = collect(DataFolder(cli.data), dry_run=True)
    assert planned.name == named
    assert f"removed: 1, together {planned.bytes:,} bytes" in cli("gc").stdout
    assert [version for _, _, version in Store(cli.data).versions()] == [new]


def test_what_a_build_reads_stays_until_it_has_ended(tmp_path: Path) -> None:
    """A raw file changes, is taken in and garbage is collected, all while items are made from the version before."""
    write_raw(tmp_path / "raw_files", "Toys", 0)
    metadata, items = STEPS["raw/metadata"], STEPS["core/items"]
    old, _ = metadata.publish(DataFolder(tmp_path), "Toys")

    def disturbed(job: Job) -> Any:
        write_raw(tmp_path / "raw_files", "Toys", 1)
        new, built = metadata.publish(DataFolder(tmp_path), "Toys")
        assert built
        assert new.version != old.version
        assert collect(DataFolder(tmp_path)) == []
        return items.build(job)

    artifact, _ = dataclasses.replace(items, build=disturbed).publish(DataFolder(tmp_path), "Toys")
    assert artifact.manifest.inputs == {old.ref: old.version}
    items.publish(DataFolder(tmp_path), "Toys")
    assert {leftover.name for leftover in collect(DataFolder(tmp_path))} == {named(old.named), named(artifact.named)}


def test_of_the_cache_goes_what_belongs_to_nothing(tmp_path: Path) -> None:
    old, new = _published(tmp_path, 0), _published(tmp_path, 1)
    data_folder = DataFolder(tmp_path)
    recipe = data_folder.store.require("raw/ratings", "Toys").manifest.recipe
    kept = [f"lookup/Toys/view/{new}", f"logs/{recipe}", "vectors/text-0123456789abcdef", "pictures/00"]
    gone = [f"lookup/Toys/view/{old}", "logs/0123456789abcdef", "training/0123456789abcdef"]
    for name in (*kept, *gone):
        (data_folder.cache / name).mkdir(parents=True)
        (data_folder.cache / name / "file").write_text("12345")
    found = [leftover.name for leftover in collect(data_folder) if leftover.kind == "cache"]
    assert sorted(found) == sorted(f"cache/{name}" for name in gone)
    assert all((data_folder.cache / name / "file").is_file() for name in kept)
    assert not any((data_folder.cache / name).exists() for name in gone)


def test_the_state_of_a_training_that_the_next_run_goes_on_with_stays(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    finetuned = data_folder.store.require("models/finetuned", "Sample_Toys").manifest.recipe
    state = data_folder.cache / "training" / finetuned
    unused = data_folder.cache / "training" / "0123456789abcdef"
    for folder in (state, unused):
        folder.mkdir(parents=True, exist_ok=True)
    assert {leftover.name for leftover in collect(data_folder, dry_run=True)} == {f"cache/training/{unused.name}"}
    unused.rmdir()


def _name(data: Path, folder: Path) -> str:
    return str(folder.relative_to(data))


def test_a_kept_training_stays_while_it_is_asked_for_or_at_work(tmp_path: Path) -> None:
    write_shop(tmp_path, "Toys", baselines={"sasrec": {}})
    data_folder = DataFolder(tmp_path)
    for key in DATA:
        made = recipe(key, "Toys", "code", [], {}, {})
        data_folder.store.publish(made, lambda out: ((out / "file").touch(), {})[1])
    inputs = [data_folder.store.require(key, "Toys") for key in DATA]
    asked = baseline_recipes(data_folder, inputs)["sasrec"].digest
    folders = {name: data_folder.cache / "training" / name for name in (asked, "a" * 32, "b" * 32)}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    with held(folders["a" * 32] / "lock"):
        assert [leftover.name for leftover in collect(data_folder)] == [_name(tmp_path, folders["b" * 32])]
    write_settings(tmp_path)
    assert {leftover.name for leftover in collect(DataFolder(tmp_path))} == {
        _name(tmp_path, folders[name]) for name in (asked, "a" * 32)
    }


def test_a_whole_run_leaves_no_garbage(tiny: Cli) -> None:
    assert json.loads(tiny("gc", "--dry-run", "--json").stdout) == []
    assert Store(tiny.data).require("warehouse/catalogue", ALL)
