-- What was a model made from, down to the raw files and their hashes?
-- $model = "models/finetuned": layer/noun of the artifact
-- $domain = (SELECT min(domain) FROM lineage.artifacts WHERE key = $model): its domain; by default the first one
SELECT depth, repeat('  ', depth) || key AS artifact, domain, version, source, sha256[:16] AS sha256_begins
FROM lineage.upstream($model, domain := $domain)
ORDER BY depth, key, domain
