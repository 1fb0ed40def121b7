-- The number of the last readable line.
SELECT max(line) AS line
FROM read_parquet($ratings, hive_partitioning = false)
