-- One row a domain: its size, test HR@10 and NDCG@10 of every model, the epochs to the best of both trainings, and the
-- model that recommends.
CREATE VIEW main.results AS
WITH scores AS (
    SELECT
        domain,
        max(value) FILTER (model = 'popularity' AND metric = 'HR') AS popularity_hr,
        max(value) FILTER (model = 'popularity' AND metric = 'NDCG') AS popularity_ndcg,
        max(value) FILTER (model = 'pretrained' AND metric = 'HR') AS pretrained_hr,
        max(value) FILTER (model = 'pretrained' AND metric = 'NDCG') AS pretrained_ndcg,
        max(value) FILTER (model = 'scratch' AND metric = 'HR') AS scratch_hr,
        max(value) FILTER (model = 'scratch' AND metric = 'NDCG') AS scratch_ndcg,
        max(value) FILTER (model = 'finetuned' AND metric = 'HR') AS finetuned_hr,
        max(value) FILTER (model = 'finetuned' AND metric = 'NDCG') AS finetuned_ndcg
    FROM reports.metrics
    WHERE split = 'test' AND k = 10
    GROUP BY domain
),
epochs AS (
    SELECT
        domain,
        max(best_epoch) FILTER (model = 'scratch') AS scratch_epochs,
        max(best_epoch) FILTER (model = 'finetuned') AS finetuned_epochs
    FROM reports.metrics_outcomes
    GROUP BY domain
),
recommending AS (
    SELECT domain, json_extract_string(summary, '$.model') AS recommends
    FROM lineage.artifacts
    WHERE key = 'reports/recommendations'
)
SELECT
    domain,
    CASE WHEN pretrained_hr IS NULL THEN 'target' ELSE 'source' END AS role,
    domains.users,
    domains.items,
    domains.interactions,
    scores.* EXCLUDE (domain),
    epochs.* EXCLUDE (domain),
    recommending.recommends
FROM domains
JOIN scores USING (domain)
LEFT JOIN epochs USING (domain)
LEFT JOIN recommending USING (domain)
ORDER BY role, domain
