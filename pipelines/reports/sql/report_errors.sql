-- The standard errors of the metrics at 10 on the test purchases.
SELECT domain, model, metric, standard_error
FROM reports.metrics
WHERE split = 'test' AND k = 10 AND standard_error IS NOT NULL
