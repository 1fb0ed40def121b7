"""The pages for people: the report, the comparison page, and the charts and samples in Dagster's UI."""
