"""The settings of a Ray cluster: what is refused, what steps ask for, and the files in deploy/ray. No Ray is needed."""

import shutil
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from mmm4rec.errors import ConfigError
from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.settings import RaySettings
from pipelines.errors import SettingsError
from pipelines.planner.step import all_steps
from pipelines.running import on_ray
from pipelines.running.definitions import build_defs
from pipelines.running.runs import execute
from tests.conftest import REPOSITORY
from tests.pipelines.small import write_settings, write_shop

ADDRESS = "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"address": "head:8265"}, "ray: address: 'head:8265' is not the address of a Ray dashboard, such as http://"),
        ({"address": "ray://head:10001"}, "is not the address of a Ray dashboard"),
        ({"address": ADDRESS, "cpus": 0}, "ray: cpus: 0"),
        ({"address": ADDRESS, "gpus": -1}, "ray: gpus: -1"),
        ({"adress": ADDRESS}, "did you mean 'address'"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    write_settings(tmp_path, ray=settings)
    with pytest.raises((SettingsError, ConfigError)) as caught:
        DataFolder(tmp_path).settings  # noqa: B018
    assert str(caught.value).startswith(f"{tmp_path / 'domains.yaml'}: ")
    assert said in str(caught.value)
    assert build_defs(DataFolder(tmp_path)).executor.name == "multiprocess"  # and every run says what is wrong


def _asked(defs: dg.Definitions) -> dict[str, str]:
    """What each step asks of Ray besides cores."""
    ops = {key: defs.resolve_assets_def(dg.AssetKey(key.split("/"))).op for key in all_steps()}
    return {key: op.tags["dagster-ray/config"] for key, op in ops.items() if "dagster-ray/config" in op.tags}


def test_only_steps_of_the_pool_gpu_ask_for_gpus_and_only_if_the_settings_say_how_many(tmp_path: Path) -> None:
    assert _asked(build_defs(DataFolder(tmp_path))) == {}
    write_settings(tmp_path, ray={"address": ADDRESS})
    assert _asked(build_defs(DataFolder(tmp_path))) == {}
    write_settings(tmp_path, ray={"address": ADDRESS, "gpus": 0.5})
    defs = build_defs(DataFolder(tmp_path))
    assert defs.executor.name == "ray"
    assert _asked(defs) == {key: '{"num_gpus": 0.5}' for key, step in all_steps().items() if step.pool == "gpu"}


def test_a_laptop_needs_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    dg.Definitions.validate_loadable(build_defs(DataFolder(tmp_path)))
    write_shop(tmp_path, "Toys", ray={"address": ADDRESS})
    dg.Definitions.validate_loadable(build_defs(DataFolder(tmp_path)))  # so that the UI shows what its runs say
    with pytest.raises(SettingsError, match=r"ray in domains.yaml needs Ray here: pip install 'mmm4rec\[ray\]'"):
        next(execute(DataFolder(tmp_path), [], dg.DagsterInstance.ephemeral()))


def test_where_steps_run_makes_nothing_stale(tmp_path: Path) -> None:
    write_shop(tmp_path, "Toys")
    step = all_steps()["raw/ratings"]
    step.publish(DataFolder(tmp_path), "Toys")
    write_shop(tmp_path, "Toys", ray={"address": ADDRESS, "gpus": 1})
    assert step.publish(DataFolder(tmp_path), "Toys")[1] is False


def test_the_dagster_yaml_for_ray_is_the_shipped_one_but_for_what_it_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = yaml.safe_load((REPOSITORY / "deploy/ray/dagster.yaml").read_text())
    shipped = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert deployed.pop("storage") == {"postgres": {"postgres_url": {"env": "MMM4REC_POSTGRES"}}}
    assert shipped.pop("storage")["custom"]["class"] == "Storage"
    assert deployed.pop("compute_logs")["class"] == "NoOpComputeLogManager"
    shipped.pop("compute_logs")
    assert deployed["concurrency"]["runs"].pop("max_concurrent_runs") == 10
    shipped["concurrency"]["runs"].pop("max_concurrent_runs")
    assert deployed == shipped
    dagster_instance_config(str(REPOSITORY / "deploy/ray"))  # Dagster knows every key


def test_the_settings_for_ray_can_be_used(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "deploy/ray/domains.yaml", tmp_path)
    data_folder = DataFolder(tmp_path)
    assert data_folder.settings.ray == data_folder.ray == RaySettings("http://head:8265", cpus=4, gpus=1)
    assert data_folder.settings.store == "s3://bucket/prefix"
    assert on_ray.chosen(data_folder) == data_folder.ray
