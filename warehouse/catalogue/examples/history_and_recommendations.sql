-- What had a user bought before a day, and what is recommended to that user?
-- $domain = null: the domain; the first with recommendations
-- $user = null: the user; the first with recommendations
-- $as_of = "2100-01-01": purchases before this day
WITH chosen AS (
    SELECT domain, user_id
    FROM reports.recommendations
    WHERE domain = coalesce($domain, domain) AND user_id = coalesce($user, user_id)
    ORDER BY domain, user_id
    LIMIT 1
),
bought AS (
    SELECT chosen.domain, 'bought' AS what, row_number() OVER (ORDER BY time, position) AS number, item_id, rated_at
    FROM chosen, history(chosen.domain, chosen.user_id, $as_of)
),
recommended AS (
    SELECT domain, 'recommended' AS what, rank AS number, item_id, NULL AS rated_at
    FROM reports.recommendations
    SEMI JOIN chosen USING (domain, user_id)
),
listed AS (
    FROM bought
    UNION ALL
    FROM recommended
)
SELECT what, number, rated_at::DATE AS day, item_id, coalesce(display_title, item_id) AS title
FROM listed
LEFT JOIN core.items USING (domain, item_id)
ORDER BY what, number
