-- Statistics of each domain after the k-core.
CREATE VIEW main.domains AS
WITH sequences AS (
    SELECT
        domain,
        count(*) AS users,
        sum(len(items))::BIGINT AS interactions,
        avg(len(items)) AS mean_length,
        max(len(items)) AS longest
    FROM core.sequences
    GROUP BY domain
),
items AS (
    SELECT
        core.sequences_items.domain,
        count(*) AS items,
        avg((title <> '' OR description <> '')::INTEGER) AS text_coverage,
        avg((len(image_urls) > 0)::INTEGER) AS picture_coverage
    FROM core.sequences_items
    LEFT JOIN core.items USING (domain, item_id)
    GROUP BY core.sequences_items.domain
)
SELECT
    domain,
    users,
    items,
    interactions,
    1 - interactions / (users * items) AS sparsity,
    mean_length,
    longest,
    text_coverage,
    picture_coverage
FROM sequences
JOIN items USING (domain)
ORDER BY domain
