-- Checks that names and types fit. No row is read, because one row of an aggregate would need a scan of all data.
SELECT *
FROM $source
LIMIT 0
