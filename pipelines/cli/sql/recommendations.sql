-- The recommendations of one model for one user, best first.
SELECT rank, item_id, display_title AS title, score, model
FROM reports.recommendations
JOIN core.items USING (domain, item_id)
WHERE domain = $domain AND user_id = $user AND rank <= $k AND model = $model
ORDER BY rank
