-- All tables, views and macros with their comments, for people who explore the catalogue.
SELECT schema_name AS schema, table_name AS name, 'table' AS kind, comment
FROM duckdb_tables()
WHERE NOT internal
UNION ALL
SELECT schema_name, view_name, 'view', comment
FROM duckdb_views()
WHERE NOT internal
UNION ALL
SELECT schema_name, function_name || '(' || array_to_string(parameters, ', ') || ')', 'macro', comment
FROM duckdb_functions()
WHERE NOT internal
ORDER BY ALL
