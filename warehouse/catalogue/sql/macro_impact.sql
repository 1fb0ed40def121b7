-- lineage.downstream of every artifact that reads the file.
CREATE MACRO lineage.impact(source, domain := NULL) AS TABLE
SELECT max(made.depth) AS depth, made.key, made.domain, made.version
FROM lineage.sources AS sources, lineage.downstream(sources.key, domain := sources.domain) AS made
WHERE sources.source = source AND sources.domain = coalesce(domain, sources.domain)
GROUP BY made.key, made.domain, made.version
ORDER BY depth, made.key, made.domain
