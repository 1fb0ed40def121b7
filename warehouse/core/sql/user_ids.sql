-- The user of every interaction, in the order of the file, and one of 16 parts, the same for all rows of a user.
SELECT user_id AS id, (hash(user_id) % 16)::UTINYINT AS part
FROM read_parquet($interactions, hive_partitioning = false)
