"""Asset checks find what they are there to find."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.data_folder.folder import DATA_VARIABLE, DataFolder
from pipelines.planner.plan import Stage, plan
from pipelines.planner.step import all_steps
from pipelines.running import runs
from pipelines.running.definitions import build_defs
from tests.conftest import Cli
from tests.pipelines.small import write_shop
from tests.warehouse.work import damage, overwrite, write_raw
from warehouse import checks
from warehouse.artifacts.store import Artifact
from warehouse.checks import violations

STEPS = all_steps()

Tables = Mapping[str, list[dict[str, Any]]]

ITEMS: Tables = {
    "items": [{"item_id": "a"}, {"item_id": "b"}],
    "rejected": [{"item_id": "a"}],
    "metadata": [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "a"}],
}
RATING = {"user_id": "u", "item_id": "a", "rating": 5.0, "time": 1}
INTERACTIONS: Tables = {
    "interactions": [{"position": 1, **RATING}, {"position": 3, **RATING, "item_id": "b"}],
    "rejected": [{"line": 2}],
    "ratings": [{"line": line} for line in (1, 2, 3)],
    "items": [{"item_id": "a"}, {"item_id": "b"}],
}
FEATURES: Tables = {"features": [{"item_id": "a"}, {"item_id": "b"}], "items": [{"item_id": "a"}, {"item_id": "b"}]}
VECTORS: Tables = {
    "vectors": [
        {"item_id": "a", "present": True, "vector": [0.6, 0.8]},
        {"item_id": "b", "present": False, "vector": [0.0, 0.0]},
    ],
    "items": [{"item_id": "a"}, {"item_id": "b"}],
}
RECOMMENDATIONS: Tables = {
    "recommendations": [
        {"model": model, "user_id": user, "rank": rank, "item_id": item, "score": 3.0 - rank}
        for model in ("m", "n")
        for user, rank, item in (("u", 1, "b"), ("u", 2, "c"), ("v", 1, "c"))  # the last one left for v
    ],
    "interactions": [{"user_id": user, "item_id": item} for user, item in ("ua", "va", "vb")],
    "items": [{"item_id": item} for item in "abc"],
}


def figure(metric: str, k: int, value: float) -> dict[str, Any]:
    """A row of the metrics of a model."""
    return {"model": "m", "split": "test", "metric": metric, "k": k, "value": value}


METRICS: Tables = {
    "figures": [
        figure("HR", 10, 0.4),
        figure("HR", 20, 0.4),
        figure("size", 10, 1.0),
        figure("size", 20, 0.0),  # it may
    ]
}
DECLARED = {"metrics": ["HR", "HR", "size", "size"], "cutoffs": [10, 20, 10, 20], "growing": ["HR"]}
ASKED = {"k": 2, "exclude_seen": True}
UNIQUE = (["core", "items"], "ids_unique_and_rows_accounted_for")


def count(folder: Path, check: str, tables: Tables, changed: Tables, bound: Mapping[str, Any]) -> dict[str, int]:
    """What the check counts over `tables` with those in `changed` in their place; only what is not zero."""
    for name, rows in {**tables, **changed}.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    files = {name: folder / f"{name}.parquet" for name in tables}
    return {name: found for name, found in violations(check, files, **bound).items() if found}


@pytest.mark.parametrize(
    ("check", "tables", "changed", "bound", "found"),
    [
        ("check_items", ITEMS, {}, {}, {}),
        (
            "check_items",
            ITEMS,
            {"items": [{"item_id": "a"}, {"item_id": "a"}, {"item_id": ""}]},
            {},
            {"items_twice": 1, "items_without_id": 1, "rows_lost_or_invented": 1},
        ),
        ("check_interactions", INTERACTIONS, {}, {}, {}),
        (
            "check_interactions",
            INTERACTIONS,
            {"interactions": [{"position": 1, **RATING}] * 2},
            {},
            {"positions_twice": 1, "interactions_twice": 1},
        ),
        (
            "check_interactions",
            INTERACTIONS,
            {"interactions": [{"position": 1, **RATING, "item_id": "z"}]},
            {},
            {"interactions_without_item": 1, "rows_lost_or_invented": 1},
        ),
        ("check_features", FEATURES, {}, {}, {}),
        (
            "check_features",
            FEATURES,
            {"features": [{"item_id": "a"}, {"item_id": "a"}, {"item_id": "z"}]},
            {},
            {"items_without_row": 1, "rows_without_item": 1, "items_twice": 1},
        ),
        ("check_vectors", VECTORS, {}, {"normalised": True}, {}),
        (
            "check_vectors",
            VECTORS,
            {"vectors": [{"item_id": item, "present": True, "vector": [3.0, 4.0]} for item in "ab"]},
            {"normalised": True},
            {"not_of_unit_norm": 2},
        ),
        (
            "check_vectors",
            VECTORS,
            {"vectors": [{"item_id": item, "present": True, "vector": [3.0, 4.0]} for item in "ab"]},
            {"normalised": False},
            {},
        ),
        (
            "check_vectors",
            VECTORS,
            {
                "vectors": [
                    {"item_id": "a", "present": True, "vector": [0.0, 0.0]},
                    {"item_id": "b", "present": True, "vector": [float("inf"), 0.0]},
                ]
            },
            {"normalised": False},
            {"vectors_not_finite": 1, "mask_disagrees": 1},
        ),
        ("check_metrics", METRICS, {}, DECLARED, {}),
        (
            "check_metrics",
            METRICS,
            {
                "figures": [
                    figure("HR", 10, 0.5),
                    figure("HR", 20, 0.4),  # falls
                    figure("size", 10, 0.3),
                    figure("size", 10, float("nan")),
                    figure("MRR", 10, 1.1),
                ]
            },
            DECLARED,
            {
                "metrics_missing": 1,
                "metrics_unknown": 1,
                "metrics_twice": 1,
                "outside_0_and_1": 2,
                "falling_with_k": 1,
            },
        ),
        ("check_recommendations", RECOMMENDATIONS, {}, ASKED, {}),
        (
            "check_recommendations",
            RECOMMENDATIONS,
            {
                "recommendations": [
                    {"model": "m", "user_id": "u", "rank": 1, "item_id": "a", "score": 1.0},
                    {"model": "m", "user_id": "u", "rank": 2, "item_id": "b", "score": 2.0},
                    {"model": "m", "user_id": "w", "rank": 3, "item_id": "b", "score": 2.0},
                ]
            },
            ASKED,
            {
                "users_with_too_few_or_many": 1,
                "users_unknown": 1,
                "users_with_repeats_or_gaps": 1,
                "scores_that_rise": 1,
                "items_already_had": 1,
            },
        ),
        (
            "check_recommendations",
            RECOMMENDATIONS,
            {
                "recommendations": [
                    row for row in RECOMMENDATIONS["recommendations"] if row["model"] + row["user_id"] != "nv"
                ]
            },
            ASKED,
            {"users_with_too_few_or_many": 1},
        ),
    ],
)
def test_each_property_that_is_broken_is_counted(
    tmp_path: Path, check: str, tables: Tables, changed: Tables, bound: Mapping[str, Any], found: dict[str, int]
) -> None:
    assert count(tmp_path, check, tables, changed, bound) == found


def materialise(*keys: str) -> dg.ExecuteInProcessResult:
    """Materialise assets of Sample_Toys, with their checks."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domain", ["Sample_Toys"])
        return (
            build_defs(DataFolder.find())
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=instance,
                partition_key="Sample_Toys",
                asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
                raise_on_error=False,
            )
        )


def evaluation(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """What the one check of that name said."""
    (found,) = (check for check in result.get_asset_check_evaluations() if check.check_name == name)
    return found


@pytest.fixture
def store(tiny: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    """A copy of the tiny sample, to be damaged."""
    shutil.copytree(tiny.data, tmp_path / "data", ignore=shutil.ignore_patterns(".dagster", "cache"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return DataFolder(tmp_path / "data")


def _artifact(data_folder: DataFolder, key: str) -> Artifact:
    return data_folder.store.require(key, "Sample_Toys")


def test_a_byte_that_changed_is_found_and_stops_what_is_downstream(store: DataFolder) -> None:
    """Sizes are as they should be, so the version is found and not built anew; its bytes are not."""
    artifact = _artifact(store, "core/items")
    content = bytearray(artifact.main.read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(artifact.main, content)
    result = materialise("core/items", "core/interactions")
    found = evaluation(result, "files_match_manifest")
    assert not found.passed
    assert "sha256" in str(found.metadata["problems"].value)
    assert str(artifact.path) in str(found.description)
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [dg.AssetKey(["core", "items"])]


@pytest.mark.long
def test_a_run_says_each_time_which_check_failed_until_it_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is refused is not current, and what needs it is not built."""
    write_shop(tmp_path, "Toys")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    data_folder, core = DataFolder(tmp_path), ["raw/ratings", "raw/metadata", "core/items", "core/interactions"]

    def run() -> tuple[dict[str, str], list[str]]:
        """The errors of a run, and what is stale after it."""
        (outcome,) = runs.execute(data_folder, plan(data_folder, ["Toys"], core), instance)
        after = [step.key for stage in plan(data_folder, ["Toys"], core) for step in stage.steps]
        return outcome.errors, after

    def shown() -> str:
        """What Dagster shows of the check."""
        key = dg.AssetCheckKey(dg.AssetKey(UNIQUE[0]), UNIQUE[1])
        return instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].status.value

    silent = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"compute_logs": silent}) as instance:
        assert run() == ({}, [])
        assert shown() == "SUCCEEDED"
        before = data_folder.store.require("core/items", "Toys")
        write_raw(data_folder.raw_folder, "Toys", 1)
        with monkeypatch.context() as broken:
            counted = checks.violations
            twice = {"items_twice": 3}
            broken.setattr(
                checks,
                "violations",
                lambda check, *given, **more: (
                    counted(check, *given, **more) | (twice if check == "check_items" else {})
                ),
            )
            for _ in range(2):
                errors, stale = run()
                assert f"the check {UNIQUE[1]} failed: items_twice 3" in errors["core/items"]
                assert errors["core/interactions"] == "not reached"
                assert stale == ["core/items", "core/interactions"]
                assert data_folder.store.require("core/items", "Toys") == before
                assert shown() == "FAILED"
                assert not any(damage(data_folder.store).values())
        assert run() == ({}, [])
        assert shown() == "SUCCEEDED"
        assert data_folder.store.require("core/items", "Toys") != before

        # Of the right size and not what the manifest says: seen when Dagster is told of it, built again by the next.
        damaged = data_folder.store.require("core/items", "Toys").main
        content = damaged.read_bytes()
        damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (outcome,) = runs.execute(data_folder, [Stage("Toys", (STEPS["core/items"],))], instance)
        assert "has the sha256" in outcome.errors["core/items"]
        assert run() == ({}, [])
        assert damaged.read_bytes() == content


def test_a_domain_without_pictures_is_a_warning_unless_it_is_meant_to_be(store: DataFolder) -> None:
    assert evaluation(materialise("features/item_images"), "coverage").passed
    manifest = _artifact(store, "features/item_images").path / "manifest.json"
    stated = json.loads(manifest.read_text())
    stated["summary"]["statuses"] = {"unreachable": stated["summary"]["items"]}
    overwrite(manifest, json.dumps(stated))
    found = evaluation(materialise("features/item_images"), "coverage")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["share"].value == 0
    path = store.path / "domains.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["defaults"]["image_encoder"] = {"kind": "none"}
    path.write_text(yaml.safe_dump(settings))
    assert evaluation(materialise("features/item_images"), "coverage").passed
