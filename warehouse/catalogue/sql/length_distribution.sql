-- The lengths of the users' sequences: their histogram, and the share of users up to each length.
CREATE VIEW main.length_distribution AS
WITH lengths AS (
    SELECT domain, len(items) AS length, count(*) AS users
    FROM core.sequences
    GROUP BY ALL
)
SELECT
    domain,
    length,
    users,
    sum(users) OVER (PARTITION BY domain ORDER BY length) / sum(users) OVER (PARTITION BY domain) AS share_at_most
FROM lengths
ORDER BY domain, length
