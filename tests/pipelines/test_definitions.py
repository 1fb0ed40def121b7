"""What Dagster sees: the assets, their layers, partitions and checks."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import asset_of
from pipelines.planner.step import all_steps, upstream_first
from pipelines.running.definitions import build_defs
from tests.pipelines.small import write_shop

STEPS = all_steps()


@pytest.fixture(scope="module")
def defs(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_defs(DataFolder(tmp_path_factory.mktemp("data")))


LAYERS = {
    "raw": {"ratings", "metadata"},
    "core": {"items", "interactions", "sequences"},
    "features": {"item_text", "item_images", "text_embeddings", "image_embeddings"},
    "models": {"pretrained", "scratch", "finetuned", "baselines"},
    "reports": {"metrics", "recommendations"},
    "warehouse": {"catalogue", "report"},
}
POOLS = {
    "downloads": {"features/item_images"},
    "gpu": {
        *("features/text_embeddings", "features/image_embeddings"),
        *("models/pretrained", "models/scratch", "models/finetuned", "models/baselines"),
        *("reports/metrics", "reports/recommendations"),
    },
    "catalogue": {"warehouse/catalogue", "warehouse/report"},
}
SPANNING = {"models/pretrained", "warehouse/catalogue", "warehouse/report"}


def test_the_definitions_load(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_every_asset_is_a_noun_of_its_layer_and_says_what_it_is(defs: dg.Definitions) -> None:
    nodes = {node.key.to_user_string(): node for node in defs.resolve_asset_graph().asset_nodes}
    assert set(nodes) == {f"{layer}/{noun}" for layer, nouns in LAYERS.items() for noun in nouns}
    for key, node in nodes.items():
        assert node.group_name == key.split("/")[0]
        assert node.description
        assert node.kinds
        assert node.owners == [f"team:{STEPS[key].room}"]
        assert node.code_version == STEPS[key].code_version
        assert (node.partitions_def is None) == (key in SPANNING)
        if node.partitions_def:
            assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)


def test_dagster_and_the_steps_know_the_same_dependencies(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key, step in STEPS.items():
        parents = {parent.to_user_string() for parent in graph.get(dg.AssetKey(key.split("/"))).parent_keys}
        assert parents == set(step.upstream), key


def test_steps_come_after_what_they_read() -> None:
    order = [step.key for step in upstream_first()]
    for key, step in STEPS.items():
        assert all(order.index(key) > order.index(other) for other in step.upstream)


def test_structural_checks_block(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    blocking: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        if graph.get_check_spec(key).blocking:
            blocking.setdefault(key.name, set()).add(key.asset_key.to_user_string())
    assert blocking == {
        "every_line_accounted_for": {"raw/ratings", "raw/metadata"},
        "ids_unique_and_rows_accounted_for": {"core/items", "core/interactions"},
        "k_core_order_and_splits": {"core/sequences"},
        "every_item_once": {"features/item_text", "features/item_images"},
        "every_item_once_and_finite": {"features/text_embeddings", "features/image_embeddings"},
        "every_metric_within_bounds": {"reports/metrics"},
        "everybody_served_and_nothing_twice": {"reports/recommendations"},
        "files_match_manifest": {f"{layer}/{noun}" for layer, nouns in LAYERS.items() for noun in nouns},
    }


def test_what_is_scarce_is_in_a_pool(defs: dg.Definitions) -> None:
    pools: dict[str, set[str]] = {}
    for key in STEPS:
        node = defs.resolve_assets_def(dg.AssetKey(key.split("/"))).op
        if node.pool:
            pools.setdefault(node.pool, set()).add(key)
    assert pools == POOLS


@pytest.mark.long
def test_finding_that_nothing_is_stale_loads_neither_what_trains_nor_what_draws() -> None:
    code = (
        "import sys\n"
        "from pipelines.planner import plan\nfrom pipelines.running import runs\n"
        "found = {'torch', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_that_runs_by_itself_says_what_it_does(defs: dg.Definitions) -> None:
    switched = [*(defs.sensors or ()), *(defs.schedules or ())]
    assert {one.name for one in switched} == {"raw_files", "next_stages", "rebuild", "housekeeping"}
    for one in switched:
        assert isinstance(one, dg.SensorDefinition | dg.ScheduleDefinition)
        assert one.description


def test_settings_that_cannot_be_used_fail_a_step_that_has_none(tmp_path: Path) -> None:
    data = tmp_path
    write_shop(data, "Toys")
    STEPS["raw/metadata"].publish(DataFolder(data), "Toys")
    (data / "domains.yaml").write_text("modell: {}")
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("domain", ["Toys"])
    result = dg.materialize(
        [asset_of(STEPS["core/items"])],
        resources={"data_folder": DataFolder(data)},
        partition_key="Toys",
        instance=instance,
        raise_on_error=False,
    )
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "unknown setting 'modell'" in failure.step_failure_data.error.message  # type: ignore[union-attr]
