-- As lineage.downstream, from all that reads the file.
CREATE MACRO lineage.impact(source, domain := NULL) AS TABLE
WITH RECURSIVE ways AS (
    SELECT sources.key, sources.domain, 0 AS depth
    FROM lineage.sources AS sources
    WHERE sources.source = source AND sources.domain = coalesce(domain, sources.domain)
    UNION
    SELECT inputs.key, inputs.domain, ways.depth + 1
    FROM ways
    JOIN lineage.inputs AS inputs ON inputs.input_key = ways.key AND inputs.input_domain = ways.domain
    WHERE ways.depth < (SELECT count(*) FROM lineage.artifacts)
)
SELECT descendants.depth, descendants.key, descendants.domain, artifacts.version
FROM (
    SELECT ways.key, ways.domain, max(ways.depth) AS depth
    FROM ways
    GROUP BY ALL
) AS descendants
JOIN lineage.artifacts AS artifacts USING (key, domain)
ORDER BY descendants.depth, descendants.key, descendants.domain
