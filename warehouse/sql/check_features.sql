-- Every item of the sequences has one row.
WITH features AS (
    SELECT item_id FROM read_parquet($features, hive_partitioning = false)
),
items AS (
    SELECT item_id FROM read_parquet($items, hive_partitioning = false)
)
SELECT
    (SELECT count(*) FROM items ANTI JOIN features USING (item_id)) AS items_without_row,
    (SELECT count(*) FROM features ANTI JOIN items USING (item_id)) AS rows_without_item,
    (SELECT count(*) - count(DISTINCT item_id) FROM features) AS items_twice
