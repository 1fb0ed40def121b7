"""The files of deploy/ray together: Dagster's storage in PostgreSQL, artifacts in a bucket, steps on two nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, Cli
from tests.pipelines.small import write_shop
from tests.pipelines.test_postgres import postgres
from tests.ray.cluster import Cluster, running
from tests.ray.conftest import COMMAND, versions
from tests.warehouse.bucket import Server
from tests.warehouse.stores import Place, bucket, server

pytest.importorskip("dagster_ray", reason="dagster-ray is not installed; `make ray` runs these tests")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

__all__ = ["bucket", "postgres", "server"]


@pytest.fixture
def cluster(server: Server, postgres: str) -> Iterator[Cluster]:
    """Two nodes, which have the keys of the bucket and the address of the database."""
    with running({**server.environment, "MMM4REC_POSTGRES": postgres}) as cluster:
        yield cluster


def test_the_files_of_deploy_ray(
    cluster: Cluster,
    bucket: Place,
    postgres: str,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        **cluster.client,
        "MMM4REC_POSTGRES": postgres,
        "MMM4REC_DAGSTER_HOME": str(REPOSITORY / "deploy/ray"),
        "DAGSTER_HOME": "",
    }.items():
        monkeypatch.setenv(name, value)
    deployed = yaml.safe_load((REPOSITORY / "deploy/ray/domains.yaml").read_text())
    deployed["ray"] |= {"address": cluster.address, "cpus": 1}
    deployed["store"] = bucket.address
    write_shop(tmp_path / "data", "Toys", **deployed)
    Cli(tmp_path / "data")(*COMMAND)
    assert versions(tmp_path / "data") == expected
    assert not list((tmp_path / "data/.dagster").rglob("*.db"))
    jobs = cluster.jobs()
    assert len(jobs) >= 5  # a check that blocks nothing is a job, too
    assert {job["status"] for job in jobs} == {"SUCCEEDED"}
    for job in jobs:  # what can be read there has no secret
        assert postgres not in str(job)
        assert cluster.environment["AWS_SECRET_ACCESS_KEY"] not in str(job)
