-- The metadata rows that were not kept, because another row of the same item was.
SELECT item_id, line, 'duplicate_asin' AS reason
FROM read_parquet($cleaned, hive_partitioning = false)
ANTI JOIN kept_lines USING (line)
ORDER BY line
