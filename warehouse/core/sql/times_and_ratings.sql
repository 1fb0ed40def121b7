-- When and how every interaction was rated, in the order of the file.
SELECT time, rating
FROM read_parquet($interactions, hive_partitioning = false)
