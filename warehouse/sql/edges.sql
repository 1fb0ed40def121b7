-- Interactions between frequent users and frequent items, ids as numbers: all that the k-core can be made of.
CREATE TEMP TABLE edges AS
SELECT interactions.position, users.user_code, items.item_code, interactions.rating, interactions.time
FROM read_parquet($interactions) AS interactions
JOIN frequent_users AS users USING (user_id)
JOIN frequent_items AS items USING (item_id)
