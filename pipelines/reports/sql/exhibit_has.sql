-- A view or table of this name.
SELECT table_name
FROM information_schema.tables
WHERE table_name = $view
