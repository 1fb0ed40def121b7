-- Every table and view of a catalogue with its columns.
SELECT schema_name AS schema, table_name AS name, list(column_name ORDER BY column_index) AS columns
FROM duckdb_columns()
WHERE NOT internal
GROUP BY ALL
ORDER BY ALL
