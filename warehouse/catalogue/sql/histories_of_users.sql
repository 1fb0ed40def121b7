-- Each requested (user, moment) is a separate row, so a user may be requested at many moments.
WITH asked AS (
    SELECT
        unnest(range(len($users::VARCHAR[]))) AS place,
        unnest($users::VARCHAR[]) AS user_id,
        main.unix_seconds(unnest($moments::VARCHAR[])) AS as_of
),

histories AS (
    SELECT
        asked.place,
        list(
            {
                time: interactions.time,
                item_id: interactions.item_id,
                rating: interactions.rating
            }
            ORDER BY interactions.time, interactions.position
        ) AS history
    FROM read_parquet($interactions, hive_partitioning = false) AS interactions
    INNER JOIN asked ON interactions.user_id = asked.user_id AND interactions.time < asked.as_of
    GROUP BY asked.place
)

SELECT
    asked.user_id,
    coalesce(list_transform(histories.history, lambda rated: rated.item_id), []) AS item_ids,
    coalesce(list_transform(histories.history, lambda rated: rated.time), []) AS times,
    coalesce(list_transform(histories.history, lambda rated: rated.rating), []) AS ratings
FROM asked
LEFT JOIN histories ON asked.place = histories.place
ORDER BY asked.place
