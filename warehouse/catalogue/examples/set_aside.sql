-- What was left out between the raw files and the sequences, or could not be read, and why?
-- $domain = null: a domain; by default all domains
SELECT
    domain,
    CASE WHEN key IN ('raw/metadata', 'core/items') THEN 'metadata' ELSE 'ratings' END AS file,
    key AS step,
    what,
    reason,
    rows,
    rows / CASE WHEN key IN ('raw/metadata', 'core/items') THEN metadata_lines ELSE rating_lines END AS share_of_lines
FROM rejected
JOIN domains USING (domain)
WHERE domain = coalesce($domain, domain)
ORDER BY domain, file DESC, what DESC, rows DESC, reason
