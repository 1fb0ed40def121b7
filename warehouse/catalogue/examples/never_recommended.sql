-- How many items are recommended to no user, and did these items sell less than the others?
WITH recommended AS (
    SELECT domain, item_id, count(DISTINCT user_id) AS users
    FROM reports.recommendations
    GROUP BY ALL
)
SELECT
    domain,
    count(*) AS items,
    count(*) FILTER (recommended.users IS NULL) AS never_recommended,
    avg((recommended.users IS NULL)::INTEGER) AS share_never,
    avg(training_interactions) FILTER (recommended.users IS NULL) AS their_mean_sales,
    avg(training_interactions) FILTER (recommended.users IS NOT NULL) AS mean_sales_of_the_others,
    max(recommended.users) AS users_of_the_most_recommended
FROM core.sequences_items
LEFT JOIN recommended USING (domain, item_id)
GROUP BY domain
ORDER BY share_never DESC, domain
