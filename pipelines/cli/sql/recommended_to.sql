-- How many items a domain keeps for a user, by which models, which is the best, how many items there are, and whether it
-- knows the user.
SELECT
    max(json_extract_string(summary, '$.model')) AS best,
    (SELECT list(DISTINCT model ORDER BY model) FROM reports.recommendations WHERE domain = $domain) AS models,
    max(json_extract(parameters, '$.k')::INTEGER) AS kept,
    (SELECT count(*) FROM core.sequences_items WHERE domain = $domain) AS items,
    (SELECT count(*) FROM core.sequences_users WHERE domain = $domain AND user_id = $user) AS users
FROM lineage.artifacts
WHERE key = 'reports/recommendations' AND domain = $domain
