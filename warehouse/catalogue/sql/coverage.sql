-- How many items of the k-core have each thing. The parts are those coverage_*.sql whose tables exist.
CREATE VIEW main.coverage AS
WITH counts AS (
$parts
)
SELECT domain, what, items, present, present / items AS share
FROM counts
ORDER BY domain, what
