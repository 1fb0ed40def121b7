-- One row, to see that the view's files are there and agree on their columns.
SELECT *
FROM $view
LIMIT 1
