"""Training on the nodes of a Ray cluster: the result of one machine, whoever is killed meanwhile."""

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from features.cluster import ClusterError
from mmm4rec.config import ModelConfig, TrainConfig
from mmm4rec.errors import ModelError
from mmm4rec.training.fit import TrainSummary, fit
from pipelines.data_folder.folder import STORE_VARIABLE, DataFolder
from pipelines.planner.plan import plan
from pipelines.ranks import Nodes, train_on
from tests.mmm4rec.conftest import domain_folder, quick, read_domain, small
from tests.pipelines.small import write_shop
from tests.ray.nodes import Cluster, cluster, nodes, running
from tests.ray.work import trained
from tests.warehouse.stores import BUCKET, Place, bucket, server

pytestmark = pytest.mark.long
__all__ = ["bucket", "cluster", "domain_folder", "nodes", "quick", "server", "small"]

Config = Callable[..., ModelConfig]
Training = Callable[..., TrainConfig]
NEVER = -1


@pytest.fixture
def training(quick: Training) -> TrainConfig:
    """Twelve optimiser steps of two ranks, with dropout."""
    return quick(batch_size=16, accumulate=4, devices=2, epochs=4, patience=None)


def here(folder: Path, model: ModelConfig, training: TrainConfig, out: Path) -> Path:
    """The same training in two processes of this machine, with one thread each as on a node."""
    out.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(read_domain(folder), model, training, out)
    finally:
        torch.set_num_threads(threads)
    return out


def there(
    cluster: Cluster,
    folder: Path,
    model: ModelConfig,
    training: TrainConfig,
    out: Path,
    rank: int = NEVER,
    after: int = NEVER,
    **more: Any,
) -> TrainSummary:
    """The training on the cluster. This rank dies once when the state was saved so many times."""
    out.mkdir()
    death = (out.with_suffix(".died"), rank, after)
    train = partial(trained, folder, asdict(model), asdict(training), death)
    at = Nodes(cluster.address, str(out.with_suffix(".states")))
    return train_on(
        at,
        train,
        "a-training",
        out,
        out.with_suffix(".state"),
        **{"ranks": training.devices, "state_seconds": 0, **more},
    )


def assert_same(out: Path, whole: Path) -> None:
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes first: auto finds a cluster of this machine that is still running."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ClusterError, match="no Ray cluster answers at 'auto'"):
        train_on(Nodes("auto", str(tmp_path)), partial(trained, tmp_path), "a", tmp_path / "out", tmp_path, ranks=2)


def test_two_nodes_train_what_two_processes_train(
    cluster: Cluster,
    domain_folder: Path,
    small: Config,
    training: TrainConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "mmm4rec")
    steps: list[tuple[int, int]] = []
    told = {"progress": lambda *step: steps.append(step)}
    summary = there(cluster, domain_folder, small(), training, tmp_path / "out", **told)
    assert summary.device == "2 x cpu"
    assert summary.resumed_at is None
    assert_same(tmp_path / "out", here(domain_folder, small(), training, tmp_path / "whole"))
    assert steps[-1] == (12, 12)
    assert "epoch 4 of 4" in caplog.text
    assert not list((tmp_path / "out.states").glob("a-training*")), "the state is removed"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(
    cluster: Cluster, domain_folder: Path, small: Config, training: TrainConfig, tmp_path: Path, rank: int
) -> None:
    summary = there(cluster, domain_folder, small(), training, tmp_path / "out", rank, 5)
    assert (tmp_path / "out.died").exists()
    assert summary.resumed_at > 0, "it does not start again"
    assert_same(tmp_path / "out", here(domain_folder, small(), training, tmp_path / "whole"))


def test_a_node_is_killed_and_another_takes_its_place(
    domain_folder: Path, small: Config, training: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as cluster:
        cluster.admit(monkeypatch)
        killed: list[int] = []

        def kill(done: int, total: int) -> None:
            if not killed and done >= 4:
                killed.append(cluster.kill(cluster.nodes[1]))
                threading.Thread(target=cluster.add).start()

        long = replace(training, epochs=40)
        summary = there(cluster, domain_folder, small(), long, tmp_path / "out", progress=kill)
    assert killed[0] > 1
    assert summary.resumed_at
    assert_same(tmp_path / "out", here(domain_folder, small(), long, tmp_path / "whole"))


def test_an_error_of_the_training_comes_as_itself(
    cluster: Cluster, domain_folder: Path, small: Config, training: TrainConfig, tmp_path: Path
) -> None:
    three = replace(training, devices=1, accumulate=1)
    with pytest.raises(ModelError, match="devices is 1 but torchrun started 2 processes: set devices to 2"):
        there(cluster, domain_folder, small(), three, tmp_path / "out", ranks=2)
    assert not any((tmp_path / "out").iterdir())


def test_a_step_trains_on_nodes_that_share_no_disk(
    bucket: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data comes from the store, and the state of the training is kept there."""
    finetuning = {"epochs": 3, "batch_size": 8, "accumulate": 2, "devices": 2}
    data, alone = tmp_path / "data", tmp_path / "alone"
    for folder in (data, alone):
        write_shop(folder, "Toys", finetuning=finetuning)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = _built(alone)
    with running(hidden=data, **bucket.server.environment) as cluster:
        cluster.admit(monkeypatch)
        write_shop(data, "Toys", finetuning=finetuning, ray={"nodes": cluster.address})
        monkeypatch.setenv(STORE_VARIABLE, bucket.address)
        bucket.server.tell(forget=True)
        assert _built(data) == whole
        seen = bucket.server.tell()["seen"]
    states = [line for line in seen if "/training/" in line and line.startswith("PUT")]
    assert states
    prefix = f"{bucket.address.split('/', 3)[3]}/training/"
    left = bucket.server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    assert not [one["Key"] for one in left if one["Size"]]


def _built(data: Path) -> str:
    """Build all up to the model, and return its version."""
    data_folder = DataFolder(data)
    for stage in plan(data_folder, ["Toys"], ["models/scratch"]):
        for step in stage.steps:
            step.publish(data_folder, stage.domain)
    return data_folder.store.require("models/scratch", "Toys").version
