-- Every rating is either an interaction or rejected with a reason. Positions are unique, and no interaction occurs
-- twice.
WITH interactions AS (
    SELECT * FROM read_parquet($interactions, hive_partitioning = false)
)
SELECT
    (SELECT count(*) - count(DISTINCT position) FROM interactions) AS positions_twice,
    (
        SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT user_id, item_id, rating, time FROM interactions))
        FROM interactions
    ) AS interactions_twice,
    (
        SELECT count(*)
        FROM interactions
        ANTI JOIN read_parquet($items, hive_partitioning = false) USING (item_id)
    ) AS interactions_without_item,
    abs(
        (SELECT count(*) FROM read_parquet($ratings, hive_partitioning = false))
        - (SELECT count(*) FROM interactions)
        - (SELECT count(*) FROM read_parquet($rejected, hive_partitioning = false))
    ) AS rows_lost_or_invented
