-- The bare graph, in any order.
SELECT user_code, item_code
FROM edges
