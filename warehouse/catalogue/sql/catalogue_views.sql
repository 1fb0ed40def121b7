-- The names of all views.
SELECT schema_name AS schema, view_name AS name
FROM duckdb_views()
WHERE NOT internal
ORDER BY ALL
