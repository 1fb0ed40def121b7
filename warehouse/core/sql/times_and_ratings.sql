-- The time and the rating of every interaction, in the order of the file.
SELECT time, rating
FROM read_parquet($interactions, hive_partitioning = false)
