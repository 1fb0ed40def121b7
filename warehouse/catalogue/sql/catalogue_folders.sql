-- The folders of the files that the views read.
SELECT path
FROM lineage.artifacts
ORDER BY path
