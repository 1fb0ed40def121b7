-- What did a model come from, down to the bytes of the raw files?
-- $model = "models/finetuned": layer/noun of the artifact
-- $domain = null: its domain; the first that has one
SELECT depth, repeat('  ', depth) || key AS artifact, domain, version, source, sha256[:16] AS sha256_begins
FROM lineage.upstream(
    $model,
    coalesce($domain, (SELECT min(domain) FROM lineage.artifacts WHERE key = $model))
)
ORDER BY depth, key, domain
