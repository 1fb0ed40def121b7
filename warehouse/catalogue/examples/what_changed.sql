-- Which row counts, other counts and metrics differ from the previous version (if there was one)?
-- $key = "reports/metrics": layer/noun of the artifact
-- $domain = null: a domain; by default all domains
WITH latest AS (
    SELECT key, domain, since, rows, summary, row_number() OVER (PARTITION BY domain ORDER BY since DESC) AS age
    FROM lineage.versions
    WHERE key = $key AND domain = coalesce($domain, domain)
),
figures AS (
    SELECT domain, since, age, fullkey[3:] AS figure, atom::VARCHAR::DOUBLE AS value
    FROM latest, json_tree(latest.summary)
    WHERE type IN ('UBIGINT', 'BIGINT', 'DOUBLE')
    UNION ALL
    SELECT domain, since, age, 'rows', rows
    FROM latest
),
before AS (
    SELECT domain, figure, value
    FROM figures
    WHERE age = 2
)
SELECT
    domain,
    date_trunc('second', since) AS since,
    figure,
    before.value AS before,
    figures.value AS now,
    figures.value - before.value AS difference
FROM figures
LEFT JOIN before USING (domain, figure)
WHERE age = 1 AND figures.value IS DISTINCT FROM before.value AND domain IN (SELECT domain FROM before)
ORDER BY domain, figure
