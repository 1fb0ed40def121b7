-- Words for the shell's completion: tables, views and macros with and without their schemas, and columns.
WITH entries AS (
    SELECT schema_name AS schema, table_name AS name FROM duckdb_columns() WHERE NOT internal
    UNION
    SELECT schema_name, function_name FROM duckdb_functions() WHERE NOT internal
)
SELECT schema || '.' || name AS name FROM entries
UNION
SELECT name FROM entries
UNION
SELECT column_name FROM duckdb_columns() WHERE NOT internal
ORDER BY name
