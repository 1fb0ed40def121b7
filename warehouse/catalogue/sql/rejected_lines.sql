-- Lines that could not be read, counted.
SELECT domain, 'raw/' || file AS key, 'row' AS what, reason, count(*) AS rows
FROM main.quarantine
GROUP BY ALL
