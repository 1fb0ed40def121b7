-- Interactions in no sequence: outside the k-core, or of a sequence cut at its longest length what came before. The
-- step keeps no list of them: they are the difference of two tables.
SELECT
    domain,
    'core/sequences' AS key,
    'row' AS what,
    'not_in_sequences' AS reason,
    sum(CASE key WHEN 'core/interactions' THEN rows ELSE -rows END)::BIGINT AS rows
FROM lineage.files
WHERE key IN ('core/interactions', 'core/sequences') AND name = 'interactions.parquet'
GROUP BY domain
HAVING count(*) = 2
