-- How many items of the k-core have each thing; the parts are coverage_*.sql, those whose tables there are.
CREATE VIEW main.coverage AS
WITH counts AS (
$parts
)
SELECT domain, what, items, present, present / items AS share
FROM counts
ORDER BY domain, what
