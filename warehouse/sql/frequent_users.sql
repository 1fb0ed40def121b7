-- Users with k or more interactions, numbered from 0 in bytewise order of user_id.
CREATE TEMP TABLE frequent_users AS
WITH frequent AS (
    SELECT user_id
    FROM read_parquet($interactions)
    GROUP BY user_id
    HAVING count(*) >= $k
)
SELECT user_id, (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS user_code
FROM frequent
