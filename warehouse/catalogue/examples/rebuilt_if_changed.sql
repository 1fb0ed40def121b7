-- What must be made anew if a raw file changes?
-- $source = (SELECT min(source) FROM lineage.sources WHERE key = 'raw/ratings'): name of the file; the first one
SELECT depth, key, domain, version
FROM lineage.impact($source)
ORDER BY depth, key, domain
