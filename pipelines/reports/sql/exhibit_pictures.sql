-- Some items that have a picture, the same ones every time.
SELECT item_id, coalesce(display_title, item_id) AS title
FROM features.item_images
LEFT JOIN core.items USING (domain, item_id)
WHERE status = 'ok'
ORDER BY md5(item_id), item_id
LIMIT $items
