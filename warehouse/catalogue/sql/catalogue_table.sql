-- A table of the catalogue's own, from rows in memory.
CREATE TABLE $schema.$table AS
SELECT *
FROM catalogue_rows
