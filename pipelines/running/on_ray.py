"""Steps on a Ray cluster: with `ray` in the settings, dagster-ray makes each step of a run a job of the cluster.

Only steps go there. Plans, ticks and the process that watches over a run stay where they are, and so does everything
if the settings name no cluster: then nothing here imports Ray.
"""

import json
import sys
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.origin import get_python_environment_entry_point

from pipelines.data_folder.folder import DATA_VARIABLE, STORE_VARIABLE, DataFolder
from pipelines.data_folder.settings import RaySettings
from pipelines.errors import EXPECTED, CommandError, SettingsError
from pipelines.planner.step import Step

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PASSED = [DATA_VARIABLE, STORE_VARIABLE, "MMM4REC_DAGSTER"]
"""Variables that a step gets from the process of its run. Secrets are not passed, because Ray shows what was: every
node has its own."""
_RUN_ID = "dagster/run-id"
"""Where dagster-ray writes the id of the run, in the metadata of a job."""


def chosen(data_folder: DataFolder) -> RaySettings:
    """The cluster of the settings, or none if they are invalid: every run reports what is wrong with them."""
    try:
        return data_folder.ray
    except EXPECTED:
        return RaySettings()


def executor(settings: RaySettings) -> dg.ExecutorDefinition:
    """dagster-ray's executor for the cluster at `settings.address`.

    Before the steps of a run start, it stops what earlier runs have left there.
    """
    needs = dg.ExecutorRequirement

    @dg.executor(name="ray", requirements=[needs.RECONSTRUCTABLE_JOB, needs.NON_EPHEMERAL_INSTANCE])
    def ray(context: dg.InitExecutorContext) -> dg.Executor:
        stop_leftovers(settings, context.instance)
        # Imported here, because the definitions are also loaded by each step, which needs no Ray.
        from dagster_ray import ray_executor

        cluster = {"address": settings.address, "num_cpus": settings.cpus, "env_vars": _PASSED}
        config = {"ray": cluster, "retries": {"enabled": {}}}
        made: dg.Executor = ray_executor.executor_creation_fn(context._replace(executor_config=config))
        return made

    return ray


def tags(step: Step, settings: RaySettings) -> dict[str, str]:
    """The tags of a step by which dagster-ray asks for GPUs."""
    if step.pool == "gpu" and settings.gpus:
        return {"dagster-ray/config": json.dumps({"num_gpus": settings.gpus})}
    return {}


def reconstructable(module: str, job: str) -> ReconstructableJob:
    """A job of the definitions in `module`, in the form in which other processes find it."""
    command = get_python_environment_entry_point(sys.executable)
    return ReconstructableJob(ReconstructableRepository(ModuleCodePointer(module, "defs"), entry_point=command), job)


def connect(settings: RaySettings) -> "JobSubmissionClient":
    """A client of the cluster's jobs.

    Raises:
        SettingsError: Ray is not installed.
        CommandError: the cluster does not answer, or refuses the token.
    """
    try:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise SettingsError(f"ray in domains.yaml needs Ray here: pip install 'mmm4rec[ray]' ({error})") from error
    try:
        return JobSubmissionClient(settings.address)
    except AuthenticationError as error:
        raise CommandError(
            f"the Ray cluster at {settings.address} refuses this process: RAY_AUTH_MODE must be `token`, and "
            "RAY_AUTH_TOKEN the token with which the cluster was started"
        ) from error
    except (OSError, RuntimeError) as error:
        raise CommandError(
            f"no Ray cluster can be used at {settings.address}, which domains.yaml names (ray: address): {error} Start "
            "its head, or name the address of its dashboard"
        ) from error


def stop_leftovers(settings: RaySettings, instance: dg.DagsterInstance) -> None:
    """Stop the jobs of runs that have ended: somebody cancelled the run, or its process was killed.

    Jobs of runs that this instance does not know are left alone.

    Raises:
        CommandError: the cluster cannot be used.
    """
    client = connect(settings)
    for job in client.list_jobs():
        run_id = (job.metadata or {}).get(_RUN_ID)
        run = instance.get_run_by_id(run_id) if run_id and not job.status.is_terminal() else None
        if run and run.is_finished:
            client.stop_job(job.submission_id)
