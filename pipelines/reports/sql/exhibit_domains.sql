-- The figures of each domain.
SELECT
    domain,
    users,
    items,
    interactions,
    round(sparsity, 4) AS sparsity,
    round(mean_length, 1) AS mean_length,
    round(gini, 3) AS gini,
    round(text_coverage, 3) AS text_coverage,
    round(picture_coverage, 3) AS picture_coverage
FROM domains
ORDER BY domain
