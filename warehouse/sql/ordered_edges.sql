-- Interactions of the k-core, each user's in the order of time, and of the raw file where times are equal.
SELECT edges.user_code, edges.item_code, edges.time, edges.rating
FROM edges
SEMI JOIN core_users USING (user_code)
SEMI JOIN core_items USING (item_code)
ORDER BY edges.user_code, edges.time, edges.position
