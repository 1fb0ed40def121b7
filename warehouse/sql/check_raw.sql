-- Every line of a raw file is either a row or in quarantine, never both.
WITH lines AS (
    SELECT line FROM read_parquet($rows, hive_partitioning = false)
    UNION ALL
    SELECT line FROM read_parquet($quarantine, hive_partitioning = false)
)
SELECT
    abs(count(*) - $lines) AS lines_lost_or_invented,
    count(*) - count(DISTINCT line) AS lines_counted_twice
FROM lines
