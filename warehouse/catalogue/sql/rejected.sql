-- All lines and rows that did not get from the raw files into the sequences, counted by the step that left them out and
-- the reason; and values that could not be read, whose rows are kept.
CREATE VIEW main.rejected AS
WITH counts AS (
$parts
)
SELECT domain, key, what, reason, rows
FROM counts
WHERE rows > 0
ORDER BY domain, key, what DESC, reason
