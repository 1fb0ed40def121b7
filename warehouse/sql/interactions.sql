-- Distinct ratings of items that have metadata, in the order of the raw file.
SELECT ratings.line AS position, ratings.user_id, ratings.item_id, ratings.rating, ratings.time
FROM read_parquet($ratings) AS ratings
ANTI JOIN duplicates USING (line)
SEMI JOIN read_parquet($items) AS items USING (item_id)
ORDER BY position
