"""The recipe's settings in domains.yaml reach the tables; what does not matter changes no byte."""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from mmm4rec.errors import ConfigError
from pipelines.data_folder.folder import DataFolder
from pipelines.errors import SettingsError
from tests.conftest import REPOSITORY, Cli

pytestmark = pytest.mark.long

TABLES = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")


def run(cli: Cli, *domains: str) -> None:
    """Build the tables of the core, nothing of the models."""
    cli("run", *domains, *_only())


def change(cli: Cli, domain: str, **settings: object) -> None:
    path = cli.data / "domains.yaml"
    content = yaml.safe_load(path.read_text())
    content["domains"][domain] |= settings
    path.write_text(yaml.safe_dump(content))


def test_every_setting_of_the_recipe_reaches_the_tables(cli: Cli) -> None:
    cli("sample", "--size", "tiny")
    change(cli, "Sample_Toys", minimum_rating=3, since="2014-06-01", until="2018-10-01", max_length=8)
    change(cli, "Sample_Toys", split="global_time", validation_from="2017-06-01", test_from="2018-01-01")
    run(cli, "Sample_Toys")
    store = DataFolder(cli.data).store
    interactions = store.require("core/interactions", "Sample_Toys")
    rows = pq.read_table(interactions.main)
    since, until, validation_from, test_from = (
        int(datetime(*day, tzinfo=UTC).timestamp())  # type: ignore[misc]
        for day in ((2014, 6, 1), (2018, 10, 1), (2017, 6, 1), (2018, 1, 1))
    )
    assert min(rows["rating"].to_pylist()) == 3
    assert since <= min(rows["time"].to_pylist()) <= max(rows["time"].to_pylist()) < until
    rejected = interactions.manifest.summary["rejected"]
    assert rejected["below_minimum_rating"]
    assert rejected["outside_time_window"]
    sequences = store.require("core/sequences", "Sample_Toys")
    assert sequences.manifest.summary["longest"] == 8
    for row in pq.read_table(sequences.path / "interactions.parquet").to_pylist():
        expected = "test" if row["time"] >= test_from else "validation" if row["time"] >= validation_from else "train"
        assert row["split"] == expected
    before = sequences.version
    change(cli, "Sample_Toys", max_length=9)
    run(cli, "Sample_Toys")
    assert store.require("core/sequences", "Sample_Toys").version != before
    assert store.require("core/interactions", "Sample_Toys").version == interactions.version


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"since": "yesterday"}, "since: 'yesterday' is not a date"),
        ({"split": "global_time"}, "needs the dates validation_from and test_from"),
        ({"test_from": "2018-01-01"}, "need split: global_time"),
        (
            {"split": "global_time", "validation_from": "2018-01-01", "test_from": "2017-01-01"},
            "must be before test_from",
        ),
        ({"split": "random"}, "known: leave_one_out, global_time"),
    ],
)
def test_settings_that_cannot_be_are_said(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump({"domains": {"Toys": settings}}))
    with pytest.raises((SettingsError, ConfigError), match=message):
        DataFolder(tmp_path).settings.domain("Toys")


def test_neither_hash_seed_nor_order_of_files_nor_threads_change_a_byte(cli: Cli, tmp_path: Path) -> None:
    """Two stores from the same raw files, copied in another order, under another seed, on one processor and all."""
    cli("sample", "--size", "tiny")
    seen = []
    for seed, reverse, processors in (("0", False, {0}), ("4242", True, None)):
        data = tmp_path / seed
        (data / "raw_files").mkdir(parents=True)
        files = sorted((cli.data / "raw_files").glob("*Toys*"), reverse=reverse)
        for file in files:
            (shutil.copytree if file.is_dir() else shutil.copy)(file, data / "raw_files" / file.name)
        shutil.copy(cli.data / "domains.yaml", data)
        subprocess.run(
            [REPOSITORY / ".venv/bin/mmm4rec", "run", "Sample_Toys", "--data", data, *_only()],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            check=True,
            preexec_fn=(lambda cpus=processors: os.sched_setaffinity(0, cpus)) if processors else None,
            capture_output=True,
        )
        artifacts = DataFolder(data).store.all_current()
        assert len(artifacts) == len(TABLES)
        seen.append([(a.ref, a.version, a.manifest.files) for a in artifacts])
    assert seen[0] == seen[1]


def _only() -> list[str]:
    return [word for key in TABLES for word in ("--only", key)]
