-- How many users rated something for the first time in each month?
-- $domain = null: a domain; by default all domains
-- $months = 24: number of months; the last ones are shown
WITH first_ratings AS (
    SELECT domain, user_id, date_trunc('month', make_timestamp(min(time) * 1000000))::DATE AS month
    FROM core.interactions
    WHERE domain = coalesce($domain, domain)
    GROUP BY domain, user_id
),
counts AS (
    SELECT domain, month, count(*) AS new_users
    FROM first_ratings
    GROUP BY ALL
)
SELECT domain, month, new_users, sum(new_users) OVER (PARTITION BY domain ORDER BY month)::BIGINT AS users_so_far
FROM counts
QUALIFY row_number() OVER (PARTITION BY domain ORDER BY month DESC) <= $months
ORDER BY domain, month
