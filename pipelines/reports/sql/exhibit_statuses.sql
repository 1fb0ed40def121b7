-- The pictures by download status.
SELECT status, items, round(share, 4) AS share
FROM pictures
ORDER BY items DESC, status
