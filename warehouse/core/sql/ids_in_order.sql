-- The places of ids in their bytewise order.
SELECT place
FROM ids
ORDER BY id
