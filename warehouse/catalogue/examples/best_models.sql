-- Which model is the best in each domain, how certain is that, and which model is second?
-- $metric = "NDCG": the metric, as in reports.metrics
-- $k = 10: the cut-off
WITH ranked AS (
    SELECT
        domain,
        model,
        value,
        standard_error,
        row_number() OVER (PARTITION BY domain ORDER BY value DESC, model) AS rank
    FROM reports.metrics
    WHERE split = 'test' AND metric = $metric AND k = $k
)
SELECT
    best.domain,
    best.model,
    best.value,
    best.value - 1.96 * best.standard_error AS low_95,
    best.value + 1.96 * best.standard_error AS high_95,
    second.model AS second_model,
    second.value AS second_value
FROM ranked AS best
LEFT JOIN ranked AS second ON second.domain = best.domain AND second.rank = 2
WHERE best.rank = 1
ORDER BY best.domain
