-- Lines that repeat an earlier line exactly. Narrow first (64-bit fingerprints), exact afterwards (the few suspects).
CREATE TEMP TABLE duplicates AS
WITH fingerprints AS (
    SELECT line, hash(user_id, item_id, rating, time) AS fingerprint
    FROM read_parquet($ratings)
),
repeated AS (
    SELECT fingerprint
    FROM fingerprints
    GROUP BY fingerprint
    HAVING count(*) > 1
),
suspects AS (
    SELECT line, user_id, item_id, rating, time
    FROM read_parquet($ratings)
    WHERE hash(user_id, item_id, rating, time) IN (FROM repeated)
),
copies AS (
    SELECT line, row_number() OVER (PARTITION BY user_id, item_id, rating, time ORDER BY line) AS copy
    FROM suspects
)
SELECT line
FROM copies
WHERE copy > 1
