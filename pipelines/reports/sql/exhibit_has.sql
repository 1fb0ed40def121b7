-- Whether the catalogue has a view or table of this name: one row if it does.
SELECT table_name
FROM information_schema.tables
WHERE table_name = $view
