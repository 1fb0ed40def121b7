-- The kept metadata rows, one per item.
SELECT
    item_id,
    title,
    title_raw,
    brand,
    description,
    description_raw,
    categories,
    image_urls,
    price_raw,
    price_lowest,
    price_highest,
    price_currency,
    price_unread,
    line
FROM read_parquet($cleaned, hive_partitioning = false)
SEMI JOIN kept_lines USING (line)
ORDER BY item_id
