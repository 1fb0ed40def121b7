-- Rows that one step rejected, counted.
SELECT domain, $key AS key, 'row' AS what, reason, count(*) AS rows
FROM $rejected
GROUP BY ALL
