-- The ratings in the order of the file, which DuckDB keeps where nothing but columns is asked for.
SELECT line, user_id, item_id, rating, time
FROM read_parquet($ratings)
