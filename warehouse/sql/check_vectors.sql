-- Every item of the sequences has one row with a vector. A vector is finite, and zero exactly if it is missing. If the
-- encoder normalises its vectors, every other vector has length 1, up to the rounding of float16.
WITH vectors AS (
    SELECT item_id, present, list_sum(list_transform(vector::FLOAT[], lambda x: x * x)) AS squared_length
    FROM read_parquet($vectors, hive_partitioning = false)
),
items AS (
    SELECT item_id FROM read_parquet($items, hive_partitioning = false)
)
SELECT
    (SELECT count(*) FROM items ANTI JOIN vectors USING (item_id)) AS items_without_row,
    (SELECT count(*) FROM vectors ANTI JOIN items USING (item_id)) AS rows_without_item,
    (SELECT count(*) - count(DISTINCT item_id) FROM vectors) AS items_twice,
    (SELECT count(*) FROM vectors WHERE NOT isfinite(squared_length)) AS vectors_not_finite,
    (SELECT count(*) FROM vectors WHERE present <> (squared_length > 0)) AS mask_disagrees,
    (SELECT count(*) FROM vectors WHERE $normalised AND present AND abs(squared_length - 1) > 0.01) AS not_of_unit_norm
