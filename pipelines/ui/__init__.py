"""`mmm4rec ui`: Dagster's servers, started together and guarded."""
