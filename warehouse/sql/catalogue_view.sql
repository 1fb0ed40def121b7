-- One table of the store, over the current version of every domain that has it.
CREATE VIEW $schema.$view AS
SELECT *
FROM read_parquet(
    [$paths],
    hive_partitioning = true,
    hive_types = {'domain': VARCHAR, 'v': VARCHAR},
    union_by_name = true
)
