"""The code location that Dagster loads."""

import dagster as dg

from pipelines.data_folder.folder import DataFolder
from pipelines.running.definitions import build_defs


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions that Dagster's servers and workers load, for the data folder that the environment names."""
    return build_defs(DataFolder.find())
