-- The parts of a query, as DuckDB's parser reads it: the types of all its parts, including statements, and the
-- functions that stand in FROM.
WITH parsed AS (
    SELECT json_serialize_sql($question) AS tree
)

SELECT
    json_extract_string(tree, '$..type') AS types,
    json_extract_string(tree, '$..function.function_name') AS functions
FROM parsed
