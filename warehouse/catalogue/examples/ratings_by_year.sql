-- How many ratings does each year have, and how many stars do they give?
-- $domain = null: a domain; by default all domains
SELECT
    domain,
    year(rated_at) AS year,
    count(*) AS ratings,
    avg(rating) AS mean_stars,
    avg((rating >= 4)::INTEGER) AS share_4_and_more
FROM core.interactions
WHERE domain = coalesce($domain, domain)
GROUP BY ALL
ORDER BY domain, year
