-- Each history is sorted once, as a list of structs, and then split into one list per column.
CREATE MACRO main.histories(domain, as_of) AS TABLE
SELECT
    histories.user_id,
    list_transform(histories.history, lambda rated: rated.item_id) AS item_ids,
    list_transform(histories.history, lambda rated: rated.time) AS times,
    list_transform(histories.history, lambda rated: rated.rating) AS ratings,
    list_transform(histories.history, lambda rated: make_timestamp(rated.time * 1000000)) AS rated_at
FROM (
    SELECT
        interactions.user_id,
        list(
            {
                time: interactions.time,
                position: interactions.position,
                item_id: interactions.item_id,
                rating: interactions.rating
            }
            ORDER BY interactions.time, interactions.position
        ) AS history
    FROM core.interactions AS interactions
    WHERE interactions.domain = domain AND interactions.time < unix_seconds(as_of)
    GROUP BY interactions.user_id
) AS histories
ORDER BY histories.user_id
