-- How many items a domain keeps for a user, how many there are, and whether it knows the user.
SELECT
    max(json_extract(parameters, '$.k')::INTEGER) AS kept,
    (SELECT count(*) FROM core.sequences_items WHERE domain = $domain) AS items,
    (SELECT count(*) FROM core.sequences_users WHERE domain = $domain AND user_id = $user) AS users
FROM lineage.artifacts
WHERE key = 'reports/recommendations' AND domain = $domain
