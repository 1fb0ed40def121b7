-- A hash of the user of every interaction, in the order of the file.
SELECT hash(user_id) AS hash
FROM read_parquet($interactions, hive_partitioning = false)
