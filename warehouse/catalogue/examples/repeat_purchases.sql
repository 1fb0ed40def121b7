-- How often does a user rate the same item again, in the interactions before the k-core?
WITH pairs AS (
    SELECT domain, user_id, item_id, count(*) AS times, (max(time) - min(time)) / 86400 AS days
    FROM core.interactions
    GROUP BY ALL
)
SELECT
    domain,
    count(*) AS pairs,
    count(*) FILTER (times > 1) AS repeated_pairs,
    avg((times > 1)::INTEGER) AS share_repeated,
    max(times) AS most_times,
    median(days) FILTER (times > 1) AS median_days_from_first_to_last
FROM pairs
GROUP BY domain
ORDER BY share_repeated DESC, domain
