"""The analysts' catalogue, warehouse.duckdb: how it is built, what it shows, and how to query it."""
