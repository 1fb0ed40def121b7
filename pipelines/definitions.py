"""The code location that Dagster loads: every asset, their checks, and what goes on by itself."""

import dagster as dg

from pipelines import automation
from pipelines.assets import checks, core, features, models, raw, reports
from pipelines.assets import warehouse as catalogue

# A step is a process, forked from one that has imported everything: imports take longer than most steps.
_PRELOADED = {"preload_modules": ["pipelines.definitions"]}

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([raw, core, features, models, reports, catalogue]),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    executor=dg.multiprocess_executor.configured({"max_concurrent": 2, "start_method": {"forkserver": _PRELOADED}}),
    jobs=automation.JOBS,
    sensors=automation.SENSORS,
    schedules=automation.SCHEDULES,
)
