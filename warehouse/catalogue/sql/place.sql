-- The files of a bucket are in the folder cache/store of the data folder.
-- Whether the open catalogue file is in the data folder whose files its views read.
CREATE VIEW lineage.place AS
WITH opened AS (
    SELECT path
    FROM duckdb_databases()
    WHERE database_name = current_database()
),
named AS (
    SELECT DISTINCT regexp_replace(path, '(/cache/store)?(/[^/]+){4}$', '') AS data_folder
    FROM lineage.artifacts
)
SELECT named.data_folder, opened.path AS opened, starts_with(opened.path, named.data_folder || '/') AS in_its_folder
FROM named, opened
