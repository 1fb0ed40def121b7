-- Every model and split has every declared metric, with a value within [0, 1]; some metrics must not fall as k grows.
-- $metrics and $cutoffs are the declared pairs, element by element; $growing are the metrics that must not fall.
WITH figures AS (
    SELECT *, lag(value) OVER (PARTITION BY model, split, metric ORDER BY k) AS value_before
    FROM read_parquet($figures, hive_partitioning = false)
),
lists AS (
    SELECT DISTINCT model, split FROM figures
),
declared AS (
    SELECT unnest($metrics::VARCHAR[]) AS metric, unnest($cutoffs::INTEGER[]) AS k
)
SELECT
    (SELECT count(*) FROM (SELECT * FROM lists CROSS JOIN declared) ANTI JOIN figures USING (model, split, metric, k))
        AS metrics_missing,
    (SELECT count(*) FROM figures ANTI JOIN declared USING (metric, k)) AS metrics_unknown,
    (SELECT count(*) - count(DISTINCT (model, split, metric, k)) FROM figures) AS metrics_twice,
    (SELECT count(*) FROM figures WHERE NOT coalesce(value BETWEEN 0 AND 1, false)) AS outside_0_and_1,
    (SELECT count(*) FROM figures WHERE value < value_before AND list_contains($growing::VARCHAR[], metric))
        AS falling_with_k
