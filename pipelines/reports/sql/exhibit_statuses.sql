-- What became of the pictures.
SELECT status, items, round(share, 4) AS share
FROM pictures
ORDER BY items DESC, status
