-- The models of a domain on the test purchases, the best first; each figure with its standard error.
SELECT
    model,
    round(max(value) FILTER (metric = 'HR'), 4) AS "HR@10",
    round(max(standard_error) FILTER (metric = 'HR'), 4) AS "HR ±",
    round(max(value) FILTER (metric = 'NDCG'), 4) AS "NDCG@10",
    round(max(standard_error) FILTER (metric = 'NDCG'), 4) AS "NDCG ±",
    max(users) AS users
FROM reports.metrics
WHERE split = 'test' AND k = 10
GROUP BY model
ORDER BY max(value) FILTER (metric = 'NDCG') DESC, model
