-- How many items have a picture that was read and kept.
SELECT domain, 'picture' AS what, count(*) AS items, count(*) FILTER (status = 'ok') AS present
FROM features.item_images
GROUP BY domain
