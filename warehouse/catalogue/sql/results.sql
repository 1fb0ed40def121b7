-- One row per domain: its size, the metrics at 10 of every model on the test items, the epochs to the best weights of
-- both trainings, and the model that recommends. $figures are the columns of models and metrics, as text.
CREATE VIEW main.results AS
WITH scores AS (
    PIVOT (
        SELECT domain, model || '_' || lower(metric) AS figure, value
        FROM reports.metrics
        WHERE split = 'test' AND k = 10
    )
    ON figure IN ($figures)
    USING max(value)
    GROUP BY domain
),
roles AS (
    SELECT domain, CASE WHEN bool_or(model = 'pretrained') THEN 'source' ELSE 'target' END AS role
    FROM reports.metrics
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
    SELECT domain, json_extract_string(summary, 'model') AS recommends
    FROM lineage.artifacts
    WHERE key = 'reports/recommendations'
)
SELECT
    domain,
    roles.role,
    domains.users,
    domains.items,
    domains.interactions,
    scores.* EXCLUDE (domain),
    epochs.* EXCLUDE (domain),
    recommending.recommends
FROM domains
JOIN roles USING (domain)
JOIN scores USING (domain)
LEFT JOIN epochs USING (domain)
LEFT JOIN recommending USING (domain)
ORDER BY role, domain
