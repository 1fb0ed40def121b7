-- A table that the catalogue itself stores, from rows in memory.
CREATE TABLE $schema.$table AS
SELECT *
FROM catalogue_rows
