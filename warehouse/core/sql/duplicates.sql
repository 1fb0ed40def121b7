-- Lines that repeat an earlier line exactly, among the suspects, the rows that share a fingerprint with another row.
WITH copies AS (
    SELECT line, row_number() OVER (PARTITION BY user_id, item_id, rating, time ORDER BY line) AS copy
    FROM suspects
)
SELECT line
FROM copies
WHERE copy > 1
