-- The metrics at 10 of the models of a domain on the test purchases, each figure with its standard error.
SELECT model, metric, value, standard_error, users
FROM reports.metrics
WHERE split = 'test' AND k = 10
ORDER BY model, metric
