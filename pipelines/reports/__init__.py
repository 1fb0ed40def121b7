"""What people look at: the report, the comparison's page, and the charts and samples in Dagster's UI."""
