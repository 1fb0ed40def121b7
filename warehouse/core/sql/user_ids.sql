-- The user of every interaction, in the order of the file, with one of 16 parts that all rows of a user share.
SELECT user_id AS id, (hash(user_id) % 16)::UTINYINT AS part
FROM read_parquet($interactions, hive_partitioning = false)
