-- How many items of the k-core have each field in the metadata.
SELECT domain, what, items, present
FROM (
    SELECT
        core.sequences_items.domain,
        count(*) AS items,
        count(*) FILTER (title <> '') AS title,
        count(*) FILTER (brand <> '') AS brand,
        count(*) FILTER (description <> '') AS description,
        count(*) FILTER (title <> '' OR description <> '') AS text,
        count(*) FILTER (len(categories) > 0) AS categories,
        count(*) FILTER (len(image_urls) > 0) AS picture_address,
        count(price_lowest) AS price
    FROM core.sequences_items
    LEFT JOIN core.items USING (domain, item_id)
    GROUP BY core.sequences_items.domain
)
UNPIVOT (present FOR what IN (title, brand, description, text, categories, picture_address, price))
