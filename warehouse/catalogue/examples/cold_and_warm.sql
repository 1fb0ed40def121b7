-- How good is each model on cold items (never seen in training) and on warmer items?
-- $metric = "NDCG": the metric, as in reports.metrics_breakdown
-- $k = 10: the cut-off
-- $domain = null: a domain; by default all domains
WITH by_warmth AS (
    SELECT
        domain,
        model,
        lowest AS training_interactions_from,
        highest AS training_interactions_to,
        users,
        value,
        standard_error
    FROM reports.metrics_breakdown
    WHERE
        breakdown = 'label_count' AND split = 'test' AND metric = $metric AND k = $k
        AND domain = coalesce($domain, domain)
)
SELECT
    by_warmth.*,
    by_warmth.value - popularity.value AS above_popularity
FROM by_warmth
JOIN by_warmth AS popularity USING (domain, training_interactions_from)
WHERE popularity.model = 'popularity'
ORDER BY domain, training_interactions_from, model
