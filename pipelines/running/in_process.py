"""A run of a job in this process that Dagster's UI lists like its own runs.

`execute_in_process` creates runs without an origin: the UI does not know their job, and the overview leaves them out.
"""

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG

from pipelines.running.on_ray import reconstructable

LOCATION = "pipelines.definitions"
"""The code location of `mmm4rec ui`."""
_REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a module."""
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Nothing on the terminal, which belongs to the progress bars. The event log keeps everything."""


def run_here(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    run_id: str,
    assets: Sequence[dg.AssetKey],
    partition: str | None,
    tags: Mapping[str, str],
    steps_elsewhere: bool,
) -> dg.JobExecutionResult:
    """Materialise some assets of a job. An error in a step is in the result.

    The steps run here, one after the other, or `steps_elsewhere`: where the executor of the definitions runs them.
    """
    code: InMemoryJob | ReconstructableJob
    if steps_elsewhere:
        code = reconstructable(LOCATION, job.name).get_subset(asset_selection=frozenset(assets))
    else:
        code = InMemoryJob(job.as_ephemeral_job(resource_defs={}, input_values={}, asset_selection=assets))
    if partition:
        tags = {**tags, **job.get_tags_for_partition_key(partition, selected_asset_keys=assets)}
    run = instance.create_run_for_job(
        code.get_definition(),
        run_id=run_id,
        # The caller sees how the run ended, so Dagster's daemon must not retry it.
        tags={**tags, MAX_RETRIES_TAG: "0"},
        run_config=_QUIET,
        asset_selection=frozenset(assets),
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), _REPOSITORY), job.name
        ),
        job_code_origin=code.get_python_origin() if isinstance(code, ReconstructableJob) else None,
    )
    return execute_run(code, run, instance)
