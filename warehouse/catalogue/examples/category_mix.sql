-- Does the mix of categories in the recommendations match what people buy?
-- $level = 2: level in the path of categories, counted from 1
-- $domain = null: a domain; by default all domains
WITH bought AS (
    SELECT domain, coalesce(categories[$level], '(none)') AS category, count(*) AS bought
    FROM core.sequences_interactions
    JOIN core.items USING (domain, item_id)
    WHERE domain = coalesce($domain, domain)
    GROUP BY ALL
),
recommended AS (
    SELECT domain, coalesce(categories[$level], '(none)') AS category, count(*) AS recommended
    FROM reports.recommendations
    JOIN core.items USING (domain, item_id)
    WHERE domain = coalesce($domain, domain)
    GROUP BY ALL
),
shares AS (
    SELECT
        domain,
        category,
        coalesce(bought, 0) / sum(bought) OVER (PARTITION BY domain) AS share_bought,
        coalesce(recommended, 0) / sum(recommended) OVER (PARTITION BY domain) AS share_recommended
    FROM bought
    FULL JOIN recommended USING (domain, category)
)
SELECT domain, category, share_bought, share_recommended, share_recommended - share_bought AS difference
FROM shares
ORDER BY domain, share_bought DESC, category
