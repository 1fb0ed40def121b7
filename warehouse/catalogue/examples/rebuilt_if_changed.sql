-- What must be built again if a raw file changes?
-- $source = (SELECT min(source) FROM lineage.sources WHERE key = 'raw/ratings'): the file; by default the first one
SELECT depth, key, domain, version
FROM lineage.impact($source)
ORDER BY depth, key, domain
