-- How many items' pictures have each status.
CREATE VIEW main.pictures AS
SELECT
    domain,
    status,
    count(*) AS items,
    count(*) / sum(count(*)) OVER (PARTITION BY domain) AS share
FROM features.item_images
GROUP BY domain, status
ORDER BY domain, items DESC, status
