-- The figures of each domain: after the k-core, then of its raw files.
CREATE VIEW main.domains AS
WITH sequences AS (
    SELECT
        domain,
        count(*) AS users,
        sum(len(items))::BIGINT AS interactions,
        avg(len(items)) AS mean_length,
        quantile_cont(len(items), [0.5, 0.9, 0.99]) AS lengths,
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
),
-- The Lorenz curve, which is straight between its points, because items of equal popularity lie on one line.
curve AS (
    SELECT
        domain,
        share_of_items,
        share_of_interactions,
        coalesce(lag(share_of_items) OVER popularity, 0) AS items_before,
        coalesce(lag(share_of_interactions) OVER popularity, 0) AS interactions_before
    FROM popularity_distribution
    WINDOW popularity AS (PARTITION BY domain ORDER BY interactions DESC)
),
concentration AS (
    SELECT
        domain,
        sum((share_of_items - items_before) * (share_of_interactions + interactions_before)) - 1 AS gini,
        sum(
            (share_of_interactions - interactions_before)
            * greatest(least((0.1 - items_before) / (share_of_items - items_before), 1), 0)
        ) AS top_tenth_share
    FROM curve
    GROUP BY domain
),
-- Rows of the Parquet files, from their manifests: no Parquet file is read for them.
file_rows AS (
    SELECT
        domain,
        max(rows) FILTER (key = 'raw/ratings' AND name = 'ratings.parquet') AS ratings,
        max(rows) FILTER (key = 'raw/ratings' AND name = 'quarantine.parquet') AS ratings_quarantined,
        max(rows) FILTER (key = 'core/interactions' AND name = 'rejected.parquet') AS ratings_rejected,
        max(rows) FILTER (key = 'raw/metadata' AND name = 'metadata.parquet') AS metadata_rows,
        max(rows) FILTER (key = 'raw/metadata' AND name = 'quarantine.parquet') AS metadata_quarantined,
        max(rows) FILTER (key = 'core/items' AND name = 'items.parquet') AS metadata_items
    FROM lineage.files
    GROUP BY domain
),
duplicates AS (
    SELECT domain, count(*) AS duplicate_ratings
    FROM core.interactions_rejected
    WHERE reason = 'exact_duplicate'
    GROUP BY domain
)
SELECT
    domain,
    users,
    items,
    interactions,
    1 - interactions / (users * items) AS sparsity,
    mean_length,
    lengths[1] AS median_length,
    lengths[2] AS p90_length,
    lengths[3] AS p99_length,
    longest,
    gini,
    top_tenth_share,
    text_coverage,
    picture_coverage,
    ratings + ratings_quarantined AS rating_lines,
    ratings_quarantined,
    ratings,
    ratings - coalesce(duplicate_ratings, 0) AS distinct_ratings,
    ratings_rejected,
    metadata_rows + metadata_quarantined AS metadata_lines,
    metadata_quarantined,
    metadata_rows,
    metadata_items
FROM sequences
JOIN items USING (domain)
JOIN concentration USING (domain)
LEFT JOIN file_rows USING (domain)
LEFT JOIN duplicates USING (domain)
ORDER BY domain
