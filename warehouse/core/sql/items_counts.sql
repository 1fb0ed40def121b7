-- How many items have text, pictures and a price.
SELECT
    count(*) FILTER (title = '' AND title_raw <> '') AS titles_without_text,
    count(*) FILTER (title <> '') AS with_title,
    count(*) FILTER (brand <> '') AS with_brand,
    count(*) FILTER (description <> '') AS with_description,
    count(*) FILTER (len(image_urls) > 0) AS with_image_url,
    count(price_lowest) AS with_price
FROM read_parquet($items, hive_partitioning = false)
