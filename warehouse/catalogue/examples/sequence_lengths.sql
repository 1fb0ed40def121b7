-- How long are the users' sequences?
-- $domain = null: a domain; by default all domains
-- $bucket = 5: number of lengths in one row
WITH buckets AS (
    SELECT domain, length // $bucket * $bucket AS shortest, sum(users)::BIGINT AS users, max(share_at_most) AS share
    FROM length_distribution
    WHERE domain = coalesce($domain, domain)
    GROUP BY ALL
)
SELECT
    domain,
    shortest,
    shortest + $bucket - 1 AS longest,
    users,
    share AS share_of_users_up_to_here,
    bar(users, 0, max(users) OVER (PARTITION BY domain), 20) AS histogram
FROM buckets
ORDER BY domain, shortest
