-- Where the files behind the views lie.
SELECT path
FROM lineage.artifacts
ORDER BY path
