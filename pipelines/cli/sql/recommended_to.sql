-- The models with recommendations for a user, the number of items each recommends, the best model, the number of items
-- in the domain, whether the user is in the k-core, and the number of the user's ratings in the raw file.
SELECT
    max(json_extract_string(summary, '$.model')) AS best,
    (SELECT list(DISTINCT model ORDER BY model) FROM reports.recommendations WHERE domain = $domain) AS models,
    max(json_extract(parameters, '$.k')::INTEGER) AS kept,
    (SELECT count(*) FROM core.sequences_items WHERE domain = $domain) AS items,
    (SELECT count(*) FROM core.sequences_users WHERE domain = $domain AND user_id = $user) AS users,
    (SELECT count(*) FROM raw.ratings WHERE domain = $domain AND user_id = $user) AS ratings
FROM lineage.artifacts
WHERE key = 'reports/recommendations' AND domain = $domain
