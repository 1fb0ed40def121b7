-- In a macro, a name without its table means the parameter if there is one of this name; so columns carry their table.
CREATE MACRO main.history(domain, user_id, as_of) AS TABLE
SELECT
    interactions.position,
    interactions.item_id,
    interactions.rating,
    interactions.time,
    make_timestamp(interactions.time * 1000000) AS rated_at
FROM core.interactions AS interactions
WHERE
    interactions.domain = domain
    AND interactions.user_id = user_id
    AND interactions.time < unix_seconds(as_of)
ORDER BY interactions.time, interactions.position
