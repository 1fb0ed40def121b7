"""The code location that Dagster loads: every asset, their checks, and what goes on by itself."""

import dagster as dg

from pipelines.assets import checks, core, features, models, raw, reports
from pipelines.assets import warehouse as catalogue
from pipelines.planner import automation

_PRELOADED = [
    "pipelines.definitions",
    "pipelines.planner.launcher",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.storage.local_compute_log_manager",
]

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([raw, core, features, models, reports, catalogue]),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    # A step a process, forked from one that has imported everything, the instance's storage too: imports would outlast
    # most steps.
    executor=dg.multiprocess_executor.configured(
        {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": _PRELOADED}}}
    ),
    jobs=automation.JOBS,
    sensors=automation.SENSORS,
    schedules=automation.SCHEDULES,
)
