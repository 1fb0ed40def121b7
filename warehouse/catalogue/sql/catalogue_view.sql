-- The view of one store table, over the current version of every domain that has it; some views have more columns than
-- the files. Domain and version are mapped from each file, not read from its path, so that folder names above the store
-- cannot add or change a column.
CREATE VIEW $schema.$view AS
SELECT
    * EXCLUDE (parquet_file),
    $more
    (MAP {$domains})[parquet_file] AS domain,
    (MAP {$versions})[parquet_file] AS v
FROM read_parquet([$paths], hive_partitioning = false, union_by_name = true, filename = 'parquet_file')
