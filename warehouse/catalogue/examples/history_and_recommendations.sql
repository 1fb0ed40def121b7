-- What had a user bought before a day, and what is recommended to that user?
-- $domain = (SELECT min(domain) FROM reports.recommendations): the domain; by default the first one
-- $user = (SELECT min(user_id) FROM reports.recommendations WHERE domain = $domain): the user; by default the first one
-- $as_of = "2100-01-01": only purchases before this day
-- $model = (SELECT json_extract_string(summary, '$.model') FROM lineage.artifacts WHERE key = 'reports/recommendations' AND domain = $domain): the model that recommends; by default the best one
WITH bought AS (
    SELECT 'bought' AS what, row_number() OVER (ORDER BY time, position) AS number, item_id, rated_at
    FROM history($domain, $user, $as_of)
),
recommended AS (
    SELECT 'recommended' AS what, rank AS number, item_id, NULL AS rated_at
    FROM reports.recommendations
    WHERE domain = $domain AND user_id = $user AND model = $model
),
items AS (
    SELECT item_id, display_title
    FROM core.items
    WHERE domain = $domain
),
listed AS (
    FROM bought
    UNION ALL
    FROM recommended
)
SELECT what, number, rated_at::DATE AS day, item_id, coalesce(display_title, item_id) AS title
FROM listed
LEFT JOIN items USING (item_id)
ORDER BY what, number
