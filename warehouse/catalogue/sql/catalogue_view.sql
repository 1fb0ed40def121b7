-- One table of the store, over the current version of every domain that has it; some views have a column more. Domain
-- and version are stated by file: the folders above it are anybody's, and add or change no column.
CREATE VIEW $schema.$view AS
SELECT
    * EXCLUDE (parquet_file),
    $more
    (MAP {$domains})[parquet_file] AS domain,
    (MAP {$versions})[parquet_file] AS v
FROM read_parquet([$paths], hive_partitioning = false, union_by_name = true, filename = 'parquet_file')
