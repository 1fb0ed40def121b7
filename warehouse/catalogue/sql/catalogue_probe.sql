-- Reads one row, to check that the view's files exist and agree on their columns.
SELECT *
FROM $view
LIMIT 1
