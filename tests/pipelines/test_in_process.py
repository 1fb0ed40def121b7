"""Runs of `mmm4rec run` as the UI shows them: each belongs to a job of its code location, and its tags can be read."""

import json
import re

import dagster as dg
import pytest

from pipelines.data_folder.folder import DataFolder
from pipelines.running.definitions import build_defs
from pipelines.running.in_process import LOCATION
from tests.conftest import REPOSITORY, Cli
from tests.pipelines.served import JOB
from tests.pipelines.small import write_shop


@pytest.fixture
def runs(tiny: Cli, monkeypatch: pytest.MonkeyPatch) -> list[dg.DagsterRun]:
    """Those that built the tiny sample."""
    monkeypatch.setenv("MMM4REC_DAGSTER", str(tiny.data / ".dagster"))
    with dg.DagsterInstance.from_config(str(REPOSITORY)) as instance:
        return list(instance.get_runs())


def test_every_run_is_one_of_a_job_that_the_ui_lists(tiny: Cli, runs: list[dg.DagsterRun]) -> None:
    jobs = {job.name for job in build_defs(DataFolder(tiny.data)).get_repository_def().get_all_jobs()}
    listed = {name for name in jobs if not name.startswith("__")}
    assert listed == {"one_domain", "all_domains", "everything", "housekeeping"}
    for run in runs:
        partition = run.tags.get("dagster/partition")
        assert run.job_name == ("one_domain" if partition else "all_domains")
        assert run.remote_job_origin
        assert run.remote_job_origin.job_name == run.job_name
        repository = run.remote_job_origin.repository_origin
        assert repository.code_location_origin.location_name == JOB["repositoryLocationName"] == LOCATION
        assert repository.repository_name == JOB["repositoryName"]
    assert {run.job_name for run in runs} == {"one_domain", "all_domains"}


def test_no_tag_is_longer_than_its_column(runs: list[dg.DagsterRun]) -> None:
    shown = [f"{key}: {value}" for run in runs for key, value in run.tags.items() if not key.startswith("dagster/")]
    assert shown
    assert max(map(len, shown)) <= 40


def test_a_command_says_what_it_built(cli: Cli) -> None:
    write_shop(cli.data, "Toys", "Mugs")
    said = cli("run", "--only", "raw/ratings").stdout.splitlines()[-1]
    assert re.fullmatch(r"built 2 artifacts of 2 domains in \d+ s", said), "without the report, no word of it"
    printed = json.loads(cli("run", "Toys", "--only", "raw/ratings", "--only", "raw/metadata", "--json").stdout)
    version = DataFolder(cli.data).store.require("raw/metadata", "Toys").version
    assert printed["built"] == [{"key": "raw/metadata", "domain": "Toys", "version": version}]
