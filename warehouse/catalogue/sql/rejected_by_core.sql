-- Interactions that are in no sequence: those outside the k-core, and the early ones of a sequence that was cut at the
-- longest length. The step keeps no list of them, so they are counted as the difference of two tables.
SELECT
    domain,
    'core/sequences' AS key,
    'row' AS what,
    'not_in_sequences' AS reason,
    sum(CASE key WHEN 'core/interactions' THEN rows ELSE -rows END)::BIGINT AS rows
FROM lineage.files
WHERE
    key IN ('core/interactions', 'core/sequences')
    AND name = 'interactions.parquet'
    AND domain IN (SELECT domain FROM lineage.artifacts WHERE key = 'core/sequences' AND shown)
GROUP BY domain
HAVING count(*) = 2
