-- Items with k or more interactions, numbered from 0 in bytewise order of item_id.
CREATE TEMP TABLE frequent_items AS
WITH frequent AS (
    SELECT item_id
    FROM read_parquet($interactions)
    GROUP BY item_id
    HAVING count(*) >= $k
)
SELECT item_id, (row_number() OVER (ORDER BY item_id) - 1)::INTEGER AS item_code
FROM frequent
