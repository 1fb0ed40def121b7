"""Dagster's definitions of a data folder: every asset, the asset checks, and the automation."""

import dagster as dg

from pipelines.assets import checks
from pipelines.data_folder.folder import DataFolder
from pipelines.planner.asset import asset_of
from pipelines.planner.step import all_steps
from pipelines.running import automation, jobs, on_ray

_PRELOADED = [
    "pipelines.definitions",
    "pipelines.running.launcher",
    "pipelines.running.storage",
    "dagster._core.storage.local_compute_log_manager",
]


def build_defs(data_folder: DataFolder) -> dg.Definitions:
    """Everything that Dagster builds, checks and starts for a data folder.

    This works even if the settings are invalid: then runs and ticks report the error.
    """
    settings = automation.switched_on(data_folder)
    ray = on_ray.chosen(data_folder)
    return dg.Definitions(
        assets=[asset_of(step, on_ray.tags(step, ray)) for step in all_steps().values()],
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        # Opened again for each run and each tick, because its settings may have changed.
        resources={"data_folder": dg.ResourceDefinition(lambda _: DataFolder(data_folder.path))},
        executor=on_ray.executor(ray) if ray.address else _on_this_machine(),
        jobs=[*jobs.asset_jobs(), jobs.everything, jobs.housekeeping],
        sensors=automation.sensors(settings),
        schedules=automation.schedules(settings),
    )


def _on_this_machine() -> dg.ExecutorDefinition:
    """Each step runs in its own process. It is forked from a process that has imported everything, including the
    instance's storage, because the imports would take longer than most steps."""
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": _PRELOADED}}}
    )
