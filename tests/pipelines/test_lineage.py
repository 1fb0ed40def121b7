"""Lineage as people and Dagster see it: trees, impact, damage, and a store, a catalogue and an event log that agree."""

import importlib.metadata
import io
import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from msgspec.structs import asdict, replace
from rich.console import Console

from pipelines import lineage
from pipelines.data_folder.folder import DataFolder
from pipelines.planner import event_log
from pipelines.planner.plan import plan
from pipelines.planner.step import all_steps
from pipelines.running import runs
from pipelines.running.definitions import build_defs
from tests.conftest import Cli
from tests.warehouse.work import ENVIRONMENT, leftovers, make_old, manifest, overwrite, write_raw
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.lineage import Lineage
from warehouse.artifacts.store import ALL, Artifact, Version

STEPS = all_steps()

CORE = ("raw/ratings", "raw/metadata", "core/items", "core/interactions", "core/sequences")
CATALOGUE = "warehouse/catalogue"


# What is printed, over a whole run


def test_a_tree_ends_at_the_bytes_of_the_raw_files(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    shown = tiny("trace", "models/finetuned@Sample_Toys").stdout
    domains = ["Sample_Toys", *data_folder.sources()]
    for domain in domains:
        for kind in ("ratings", "metadata"):
            path = data_folder.raw_folder / data_folder.raw_file(domain, kind)
            assert f"{path.name} sha256 {sha256_file(path)}" in shown
    rows = json.loads(tiny("trace", "models/finetuned@Sample_Toys", "--json").stdout)
    assert rows[0]["key"] == "models/finetuned"
    seen: set[str] = set()
    for row in reversed(rows):  # each after what it was made from
        assert set(row["inputs"]) <= seen
        seen.add(f"{row['key']}@{row['domain']}:{row['version']}")
    assert {row["domain"] for row in rows} == {ALL, *domains}
    assert json.loads(tiny("trace", rows[0]["version"][:8], "--json").stdout) == rows


def test_the_way_up_and_the_catalogue_say_the_same(tiny: Cli) -> None:
    data_folder = DataFolder(tiny.data)
    source = data_folder.raw_folder / data_folder.raw_file("Sample_Toys", "metadata")
    by_name = json.loads(tiny("impact", source.name, "--json").stdout)
    assert json.loads(tiny("impact", sha256_file(source)[:12], "--json").stdout) == by_name
    shown = json.loads(tiny("sql", f"FROM lineage.impact('{source.name}')", "--json").stdout)
    # The catalogue cannot show itself, nor what is made from it.
    assert {(r["key"], r["domain"], r["version"]) for r in by_name if r["key"].split("/")[0] != "warehouse"} == {
        (r["key"], r["domain"], r["version"]) for r in shown
    }
    assert {r["key"] for r in by_name} > {"raw/metadata", "models/finetuned", "warehouse/report"}


def test_a_tree_says_what_made_each_where_it_changes(tiny: Cli) -> None:
    shown = Cli(tiny.data, columns=100)("trace", "models/finetuned@Sample_Toys").stdout
    rows = json.loads(tiny("trace", "models/finetuned@Sample_Toys", "--json").stdout)
    environment = rows[0]["environment"]
    assert [row["environment"] for row in rows] == [environment] * len(rows), "one run on one machine"
    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    assert max(map(len, shown.splitlines())) <= 100, "wrapped"
    line = " ".join(shown.replace("│", " ").split())
    versions = [f"Python {environment['python']}", *(f"{name} {of}" for name, of in environment["packages"].items())]
    assert line.count("made at") == 1
    assert f"made at commit {(environment['git_commit'] or 'unknown')[:12]}" in line
    said = f"device {environment['device']}; processor {environment['processor']}; by {', '.join(versions)}"
    assert said in line, "no part of it is cut"
    impact = json.loads(tiny("impact", "Sample_Toys.csv", "--json").stdout)
    assert {json.dumps(row["environment"], sort_keys=True) for row in impact} == {
        json.dumps(environment, sort_keys=True)
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "models/finetuned"], "there are models/finetuned@Sample_Office, models/finetuned@Sample_Toys"),
        (["impact", "nothing.csv"], "nothing was made from a raw file"),
        (["verify", "Nowhere"], "no domain 'Nowhere'"),
        (["pin", "ffffffff"], "no version ffffffff"),
    ],
)
def test_errors_say_what_is_wrong(tiny: Cli, arguments: list[str], said: str) -> None:
    failed = tiny(*arguments, code=1)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_tree_over_several_makers(tmp_path: Path) -> None:
    """The line holds for all below it, until another says otherwise; what is not recorded is said too."""
    other = replace(ENVIRONMENT, git_clean=False, device="[H100]", packages={"torch": "2.6"})
    bare = replace(ENVIRONMENT, git_commit=None, git_clean=None, packages={})
    # a <- b <- c <- d, and what a node was made by.
    makers = {"a": None, "b": ENVIRONMENT, "c": ENVIRONMENT, "d": other, "e": bare}
    versions: dict[Version, Artifact | None] = {}
    before: dict[str, str] = {}
    for name, maker in makers.items():
        version = name * 16
        said = manifest(f"core/{name}", "Toys", version, inputs=before, environment=maker)
        versions[f"core/{name}", "Toys", version] = Artifact(f"core/{name}", "Toys", version, tmp_path, said)
        before = {f"core/{name}@Toys": version}
    graph = Lineage(versions, frozenset())
    printed = Console(width=400, file=io.StringIO())
    printed.print(lineage.tree(graph, ("core/e", "Toys", "e" * 16)))
    assert isinstance(printed.file, io.StringIO)
    lines = [line.strip(" │└─├") for line in printed.file.getvalue().splitlines()]
    assert [line if line.startswith(("made", "what")) else line[:6] for line in lines] == [
        "core/e",
        "made at commit unknown; device cpu; processor abacus; by Python 3.11.2",
        "core/d",
        "made at commit c0ffeec0ffee, with changes; device [H100]; processor abacus; by Python 3.11.2, torch 2.6",
        "core/c",
        "made at commit c0ffeec0ffee; device cpu; processor abacus; by Python 3.11.2, duckdb 2.0.0, torch 2.13.0+cpu",
        "core/b",
        "core/a",
        "what made it is not recorded",
    ]
    told = {row["key"]: row["environment"] for row in (lineage.describe(graph, version) for version in versions)}
    assert told["core/a"] is None
    assert told["core/d"] == asdict(other)


# Store, catalogue and event log, over a domain without models


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    data = tmp_path / "data"
    write_raw(data / "raw_files", "Toys", 0)
    (data / "domains.yaml").write_text("defaults: {k: 3}\n")
    monkeypatch.setenv("MMM4REC_DATA", str(data))
    return DataFolder(data)


def _run(data_folder: DataFolder, instance: dg.DagsterInstance, *keys: str) -> None:
    """What `mmm4rec run` does; nothing fails, and no check warns."""
    stages = plan(data_folder, ["Toys"], keys)
    outcomes = list(
        runs.execute(data_folder, runs.unrecorded(data_folder, stages, instance, ["Toys"], keys) + stages, instance)
    )
    assert [(o.stage.name, o.errors, o.warnings) for o in outcomes if o.errors or o.warnings] == []


@pytest.mark.long
def test_all_three_agree_and_a_process_killed_between_two_is_seen(
    data_folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    _run(data_folder, instance, *CORE, CATALOGUE)
    assert event_log.disagreements(data_folder, instance) == []
    (made,) = instance.fetch_materializations(dg.AssetKey(["core", "items"]), 1).records
    told = made.asset_materialization
    assert told
    columns = told.metadata["dagster/column_lineage"].value
    assert columns.deps_by_column["title_raw"] == [dg.TableColumnDep(dg.AssetKey(["raw", "metadata"]), "title")]

    # Killed after the version was published, before Dagster was told; so the catalogue is behind as well.
    write_raw(data_folder.raw_folder, "Toys", 1)
    STEPS["raw/ratings"].publish(DataFolder(data_folder.path), "Toys")
    new, old = data_folder.store.require("raw/ratings", "Toys").version, told.tags
    assert old
    assert event_log.unrecorded(data_folder, instance) == [("raw/ratings", "Toys")]
    found = "\n".join(event_log.disagreements(data_folder, instance))
    assert "event log does not have the current raw/ratings of Toys; `mmm4rec run` records it" in found
    assert f"does not show the current raw/ratings@Toys:{new}" in found

    _run(DataFolder(data_folder.path), instance, *CORE, CATALOGUE)
    assert event_log.disagreements(data_folder, instance) == []


def test_the_check_warns_of_what_the_event_log_lacks(data_folder: DataFolder, instance: dg.DagsterInstance) -> None:
    STEPS["raw/ratings"].publish(data_folder, "Toys")
    ran = (
        build_defs(data_folder)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=instance, asset_selection=[dg.AssetKey(CATALOGUE.split("/"))])
    )
    assert ran.success
    (check,) = (found for found in ran.get_asset_check_evaluations() if "agree" in found.check_name)
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert check.metadata["disagreements"].value == 1
    assert "raw/ratings of Toys" in str(check.metadata["examples"].value)


def test_a_catalogue_that_is_gone_is_a_disagreement(data_folder: DataFolder, instance: dg.DagsterInstance) -> None:
    assert event_log.disagreements(data_folder, instance) == [f"there is no catalogue at {data_folder.catalogue}"]


def test_manifests_from_before_make_nothing_stale(data_folder: DataFolder) -> None:
    for key in CORE:
        STEPS[key].publish(data_folder, "Toys")
    before = data_folder.store.all_current()
    for artifact in before:
        make_old(artifact)
    assert plan(DataFolder(data_folder.path), ["Toys"], CORE) == []
    assert all(artifact.manifest.environment is None for artifact in data_folder.store.all_current())
    for key in CORE:
        assert not STEPS[key].publish(DataFolder(data_folder.path), "Toys")[1]
    assert not any(lineage.verify(data_folder).values())


@pytest.mark.long
def test_a_store_from_elsewhere_is_recorded_without_building(
    data_folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    for key in CORE:
        STEPS[key].publish(data_folder, "Toys")
    before = {version: data_folder.store.path(version).stat().st_mtime_ns for version in data_folder.store.versions()}
    assert plan(data_folder, ["Toys"], CORE) == []
    _run(data_folder, instance, *CORE)
    assert {
        version: data_folder.store.path(version).stat().st_mtime_ns for version in data_folder.store.versions()
    } == before
    assert event_log.unrecorded(data_folder, instance) == []


@pytest.mark.long
def test_damage_that_keeps_the_size_is_found_and_the_next_run_mends_it(
    data_folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    _run(data_folder, instance, *CORE)
    items = data_folder.store.require("core/items", "Toys")
    data = bytearray(items.main.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(items.main, data)
    assert plan(data_folder, ["Toys"], CORE) == []
    seen: list[tuple[int, int]] = []
    found = lineage.verify(data_folder, ["Toys"], progress=lambda done, total: seen.append((done, total)))
    assert [name for name, problems in found.items() if problems] == [f"core/items@Toys:{items.version}"]
    assert len(found) == len(CORE)
    assert seen[-1][0] == seen[-1][1] > 0
    assert {step.key for stage in plan(data_folder, ["Toys"], CORE) for step in stage.steps} == {
        "core/items",
        "core/interactions",
        "core/sequences",
    }
    _run(data_folder, instance, *CORE)
    assert data_folder.store.require("core/items", "Toys").version == items.version
    assert not any(lineage.verify(data_folder).values())
    assert plan(data_folder, ["Toys"], CORE) == []
    assert leftovers(data_folder.store, ".dagster", "cache", "raw_files", "domains.yaml") == []


def test_versions_that_are_not_current_are_verified_when_asked(data_folder: DataFolder) -> None:
    STEPS["raw/ratings"].publish(data_folder, "Toys")
    old = data_folder.store.require("raw/ratings", "Toys")
    write_raw(data_folder.raw_folder, "Toys", 1)
    STEPS["raw/ratings"].publish(DataFolder(data_folder.path), "Toys")
    old.main.unlink()
    assert not any(lineage.verify(data_folder).values())
    assert lineage.verify(data_folder, everything=True)[f"raw/ratings@Toys:{old.version}"] == [f"{old.main} is missing"]


def test_a_current_that_leads_nowhere_is_damage(data_folder: DataFolder) -> None:
    STEPS["raw/ratings"].publish(data_folder, "Toys")
    shutil.rmtree(data_folder.store.require("raw/ratings", "Toys").path)
    ((problem,),) = lineage.verify(data_folder).values()
    assert "no readable manifest" in problem
    assert "`mmm4rec run Toys` builds it again" in problem
