-- What share of the interactions do the most popular items have?
-- $percent = 1: percentage of the items; at least one item is counted
WITH ranked AS (
    SELECT
        domain,
        interactions,
        row_number() OVER (PARTITION BY domain ORDER BY interactions DESC) AS rank,
        count(*) OVER (PARTITION BY domain) AS items
    FROM core.sequences_items
),
head AS (
    SELECT
        domain,
        count(*) FILTER (rank <= greatest(items * $percent / 100, 1)) AS head_items,
        count(*) AS items,
        sum(interactions) FILTER (rank <= greatest(items * $percent / 100, 1)) / sum(interactions) AS share
    FROM ranked
    GROUP BY domain
)
SELECT domain, items, head_items, share AS share_of_interactions
FROM head
ORDER BY share DESC, domain
