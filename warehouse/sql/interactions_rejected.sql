-- Every rating that is not an interaction, with the first reason that holds.
WITH judged AS (
    SELECT
        line,
        user_id,
        item_id,
        CASE
            WHEN line IN (FROM duplicates) THEN 'exact_duplicate'
            WHEN item_id NOT IN (SELECT item_id FROM read_parquet($items)) THEN 'no_metadata'
        END AS reason
    FROM read_parquet($ratings)
)
SELECT line, user_id, item_id, reason
FROM judged
WHERE reason IS NOT NULL
ORDER BY line
