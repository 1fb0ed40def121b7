-- The columns of one table or view, or what a macro does. The name may come without its schema.
WITH entries AS (
    SELECT schema_name AS schema, table_name AS name, column_index AS place, column_name, data_type, comment
    FROM duckdb_columns()
    WHERE NOT internal
    UNION ALL
    SELECT schema_name, function_name, 0, array_to_string(parameters, ', '), 'macro', comment
    FROM duckdb_functions()
    WHERE NOT internal
)
SELECT column_name AS "column", data_type AS type, comment
FROM entries
WHERE $name IN (name, schema || '.' || name)
ORDER BY schema, name, place
