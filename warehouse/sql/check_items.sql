-- Every metadata row is either an item or rejected for another row of the same item. Ids are not empty, and unique.
WITH items AS (
    SELECT item_id FROM read_parquet($items, hive_partitioning = false)
)
SELECT
    (SELECT count(*) - count(DISTINCT item_id) FROM items) AS items_twice,
    (SELECT count(*) FROM items WHERE item_id = '') AS items_without_id,
    abs(
        (SELECT count(*) FROM read_parquet($metadata, hive_partitioning = false))
        - (SELECT count(*) FROM items)
        - (SELECT count(*) FROM read_parquet($rejected, hive_partitioning = false))
    ) AS rows_lost_or_invented
