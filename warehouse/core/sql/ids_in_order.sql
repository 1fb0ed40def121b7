-- The places of the ids, sorted by id (bytewise).
SELECT place
FROM ids
ORDER BY id
