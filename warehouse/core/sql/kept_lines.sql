-- For each item the metadata row with the most filled fields; if several have equally many, the first line.
CREATE TEMP TABLE kept_lines AS
WITH copies AS (
    SELECT
        line,
        row_number() OVER (
            PARTITION BY item_id
            ORDER BY
                (title <> '')::INTEGER
                + (brand <> '')::INTEGER
                + (description <> '')::INTEGER
                + (len(categories) > 0)::INTEGER
                + (len(image_urls) > 0)::INTEGER DESC,
                line
        ) AS copy
    FROM read_parquet($cleaned, hive_partitioning = false)
)
SELECT line
FROM copies
WHERE copy = 1
