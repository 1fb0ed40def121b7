-- How many items have a picture, and why do the others have none?
SELECT
    domain,
    sum(items)::BIGINT AS items,
    max(share) FILTER (status = 'ok') AS share_ok,
    string_agg(status || ' ' || items, ', ' ORDER BY items DESC, status) FILTER (status <> 'ok') AS not_ok
FROM pictures
GROUP BY domain
ORDER BY domain
