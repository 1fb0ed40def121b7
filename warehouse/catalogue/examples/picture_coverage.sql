-- For how many items is there a picture, and what became of the others?
SELECT
    domain,
    sum(items)::BIGINT AS items,
    max(share) FILTER (status = 'ok') AS share_ok,
    string_agg(status || ' ' || items, ', ' ORDER BY items DESC, status) FILTER (status <> 'ok') AS not_ok
FROM pictures
GROUP BY domain
ORDER BY domain
