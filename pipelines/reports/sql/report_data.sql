-- What each domain of the report was made from: its raw files, and the ratings in use with their first and last day.
WITH files AS (
    SELECT domain, list({name: source, sha256: sha256} ORDER BY key DESC, source) AS files
    FROM lineage.sources
    WHERE key IN ('raw/ratings', 'raw/metadata')
    GROUP BY domain
),
periods AS (
    SELECT domain, count(*) AS ratings, min(rated_at)::DATE AS first_day, max(rated_at)::DATE AS last_day
    FROM core.interactions
    GROUP BY domain
)
SELECT domain, files, ratings, first_day, last_day
FROM periods
LEFT JOIN files USING (domain)
SEMI JOIN results USING (domain)
ORDER BY domain
