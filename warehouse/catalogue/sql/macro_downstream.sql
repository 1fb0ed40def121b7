-- Matched by name, not by version: artifacts made from an older version must be rebuilt as well. Depth is defined as in
-- lineage.upstream.
CREATE MACRO lineage.downstream(key, domain := '_all') AS TABLE
WITH RECURSIVE ways AS (
    SELECT artifacts.key, artifacts.domain, 0 AS depth
    FROM lineage.artifacts AS artifacts
    WHERE artifacts.key = key AND artifacts.domain = domain
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
