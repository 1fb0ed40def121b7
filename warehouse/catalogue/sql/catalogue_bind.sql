-- Names and types fit. Nothing is read: a row of an aggregate would cost a scan of all there is.
SELECT *
FROM $source
LIMIT 0
