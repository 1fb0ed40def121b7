-- Prices that could not be read, counted.
SELECT domain, 'core/items' AS key, 'price' AS what, price_unread AS reason, count(*) AS rows
FROM core.items
WHERE price_unread IS NOT NULL
GROUP BY ALL
