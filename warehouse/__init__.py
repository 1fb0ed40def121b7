"""Raw files to tables to sequences to the analysts' catalogue, in DuckDB and SQL."""
