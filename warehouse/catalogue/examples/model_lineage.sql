-- What did a model come from, down to the bytes of the raw files?
-- $model = "models/finetuned": layer/noun of the artifact
-- $domain = (SELECT min(domain) FROM lineage.artifacts WHERE key = $model): its domain; the first that has one
SELECT depth, repeat('  ', depth) || key AS artifact, domain, version, source, sha256[:16] AS sha256_begins
FROM lineage.upstream($model, domain := $domain)
ORDER BY depth, key, domain
