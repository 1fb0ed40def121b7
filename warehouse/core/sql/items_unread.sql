-- How many items have a price that could not be read, by reason.
SELECT price_unread AS reason, count(*) AS items
FROM read_parquet($items, hive_partitioning = false)
WHERE price_unread IS NOT NULL
GROUP BY price_unread
ORDER BY price_unread
