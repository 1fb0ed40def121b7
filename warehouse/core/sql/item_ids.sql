-- The item of every interaction, in the order of the file, with one of 16 parts that all rows of an item share.
SELECT item_id AS id, (hash(item_id) % 16)::UTINYINT AS part
FROM read_parquet($interactions, hive_partitioning = false)
