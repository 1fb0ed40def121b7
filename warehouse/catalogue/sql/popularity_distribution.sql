-- The histogram of the items' popularity. From it an analyst can plot the long tail (interactions against
-- items_at_least, both axes logarithmic) and the Lorenz curve (share_of_interactions against share_of_items).
CREATE VIEW main.popularity_distribution AS
WITH popularity AS (
    SELECT domain, interactions, count(*) AS items
    FROM core.sequences_items
    GROUP BY ALL
),
cumulated AS (
    SELECT
        domain,
        interactions,
        items,
        sum(items) OVER descending AS items_at_least,
        sum(items * interactions) OVER descending AS interactions_at_least
    FROM popularity
    WINDOW descending AS (PARTITION BY domain ORDER BY interactions DESC)
)
SELECT
    domain,
    interactions,
    items,
    items_at_least::BIGINT AS items_at_least,
    items_at_least / max(items_at_least) OVER (PARTITION BY domain) AS share_of_items,
    interactions_at_least / max(interactions_at_least) OVER (PARTITION BY domain) AS share_of_interactions
FROM cumulated
ORDER BY domain, interactions DESC
