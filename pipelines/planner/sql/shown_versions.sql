-- The artifact versions that the catalogue shows.
SELECT key, domain, version
FROM lineage.artifacts
ORDER BY ALL
