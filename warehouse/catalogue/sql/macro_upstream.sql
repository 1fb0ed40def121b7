-- Matched by version: the versions that were read, also if a newer version is current now. An artifact is found once
-- per path that leads to it. The longest path is its depth, so that it is deeper than everything made from it. No path
-- is longer than the number of artifacts, and this limit ends the recursion even if the rows contain a cycle.
CREATE MACRO lineage.upstream(key, domain := '_all') AS TABLE
WITH RECURSIVE ways AS (
    SELECT artifacts.key, artifacts.domain, artifacts.version, 0 AS depth
    FROM lineage.artifacts AS artifacts
    WHERE artifacts.key = key AND artifacts.domain = domain
    UNION
    SELECT inputs.input_key, inputs.input_domain, inputs.input_version, ways.depth + 1
    FROM ways
    JOIN lineage.inputs AS inputs USING (key, domain, version)
    WHERE ways.depth < (SELECT count(*) FROM lineage.artifacts)
)
SELECT
    ancestors.depth,
    ancestors.key,
    ancestors.domain,
    ancestors.version,
    artifacts.key IS NOT NULL AS current,
    sources.source,
    sources.sha256
FROM (
    SELECT ways.key, ways.domain, ways.version, max(ways.depth) AS depth
    FROM ways
    GROUP BY ALL
) AS ancestors
LEFT JOIN lineage.artifacts AS artifacts USING (key, domain, version)
LEFT JOIN lineage.sources AS sources USING (key, domain, version)
ORDER BY ancestors.depth, ancestors.key, ancestors.domain, sources.source
