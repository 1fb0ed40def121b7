"""The files of deploy/kubernetes, checked without a cluster: they parse, and agree with the rest."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.data_folder.folder import DataFolder
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "deploy/kubernetes"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def everywhere(value: Any, name: str) -> Iterator[Any]:
    """The values of all keys of this name."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from [each] if key == name else []
            yield from everywhere(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from everywhere(each, name)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return read("raycluster.yaml")


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return read("dagster-values.yaml")


def test_the_settings_are_settings(tmp_path: Path, cluster: dict[str, Any]) -> None:
    written = read("domains.yaml")
    assert written["raw_folder"].startswith("s3://")
    written["raw_folder"] = "raw_files"  # a bucket would be listed
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump(written))
    settings = DataFolder(tmp_path).settings
    assert settings.ray.address == f"http://{cluster['metadata']['name']}-head-svc:8265"
    assert settings.store
    assert settings.automation.enabled


def test_every_pod_has_one_image(cluster: dict[str, Any], values: dict[str, Any]) -> None:
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    assert set(everywhere(cluster, "image")) == {image}
    assert image in (FOLDER / "Dockerfile").read_text()
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert image.endswith(f":{version}")


def test_every_secret_and_config_map_is_created(cluster: dict[str, Any], values: dict[str, Any]) -> None:
    named = {each["name"] for each in everywhere([cluster, values], "secretKeyRef")}
    named |= {each["name"] for each in everywhere([cluster, values], "secretRef")}
    named |= {each["name"] for each in everywhere([cluster, values], "configMap")}
    named |= {each["name"] for every in everywhere(values, "envSecrets") for each in every}
    named |= {cluster["spec"]["authOptions"]["secretName"], values["global"]["postgresqlSecretName"]}
    created = set(re.findall(r"kubectl create (?:configmap|secret generic) (\S+)", README))
    assert named == created
    keys = {each["key"] for each in everywhere([cluster, values], "secretKeyRef")}
    assert keys <= set(re.findall(r"--from-literal (\w[\w-]*)=", README))


def test_every_group_of_nodes_mounts_the_settings(cluster: dict[str, Any]) -> None:
    spec = cluster["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"/data", "/data/domains.yaml"}
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    room = {group["rayStartParams"].get("num-cpus") for group in groups}
    assert room == {"0", None}  # the head runs no step
    asked = DataFolder(FOLDER).ray
    gpus = [next(everywhere(group, "nvidia.com/gpu"), "0") for group in groups]
    assert asked.gpus <= max(map(int, gpus))


def test_what_is_said_twice_is_the_same(cluster: dict[str, Any], values: dict[str, Any]) -> None:
    """Versions, the variables of Ray, and the values of the dagster.yaml of deploy/ray."""
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"ray=={cluster['spec']['rayVersion']} " in makefile
    dagster = re.search(r"^dagster==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert dagster
    assert f"--version {dagster[1]} " in README
    variables = dict(
        line.split("=") for line in (REPOSITORY / "deploy/ray/ray.env").read_text().splitlines() if line[:4] == "RAY_"
    )
    for each in cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]:
        if each["name"].startswith("RAY_"):
            assert variables[each["name"]] == each["value"]
    ours = yaml.safe_load((REPOSITORY / "deploy/ray/dagster.yaml").read_text())
    assert values["concurrency"]["pools"] == {"granularity": "op", "defaultLimit": 1}
    assert ours["concurrency"]["pools"] == {"granularity": "op", "default_limit": 1}
    limits = ours["concurrency"]["runs"]["tag_concurrency_limits"]
    assert values["concurrency"]["runs"]["tagConcurrencyLimits"] == limits
    assert values["pythonLogs"]["managedPythonLoggers"] == ours["python_logs"]["managed_python_loggers"]
    assert values["dagsterDaemon"]["runRetries"]["maxRetries"] == ours["run_retries"]["max_retries"]
