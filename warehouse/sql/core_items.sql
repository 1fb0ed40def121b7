-- Ids of the items of the k-core, sorted.
SELECT item_id
FROM frequent_items
SEMI JOIN core_items USING (item_code)
ORDER BY item_code
