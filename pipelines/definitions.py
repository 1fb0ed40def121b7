"""The code location that Dagster loads: every asset, their checks, and the job that `mmm4rec run` executes."""

import dagster as dg

from pipelines.assets import checks, core, features, models, raw, reports
from pipelines.assets import warehouse as catalogue

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([raw, core, features, models, reports, catalogue]),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
)
