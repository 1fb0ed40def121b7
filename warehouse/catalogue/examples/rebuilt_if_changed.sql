-- What must be made anew if a raw file changes?
-- $source = null: the file's name, as in lineage.sources; the first one
SELECT depth, key, domain, version
FROM lineage.impact(coalesce($source, (SELECT min(source) FROM lineage.sources WHERE key = 'raw/ratings')))
ORDER BY depth, key, domain
