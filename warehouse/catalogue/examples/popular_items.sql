-- Which items of a domain are the most popular?
-- $domain = (SELECT min(domain) FROM domains): the domain; by default the first one
-- $top = 10: number of items
SELECT
    row_number() OVER (ORDER BY interactions DESC, item_id) AS rank,
    item_id,
    coalesce(display_title, item_id) AS title,
    brand,
    interactions
FROM core.sequences_items
LEFT JOIN core.items USING (domain, item_id)
WHERE domain = $domain
ORDER BY rank
LIMIT $top
