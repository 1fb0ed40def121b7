-- Every model recommends to every user as many items as requested, or as many as are left. No item is repeated, scores
-- do not rise with the rank, and items that the user already has appear only if this is permitted.
WITH recommendations AS (
    SELECT *, lag(score) OVER (PARTITION BY model, user_id ORDER BY rank) AS score_before
    FROM read_parquet($recommendations, hive_partitioning = false)
),
models AS (
    SELECT DISTINCT model
    FROM recommendations
    UNION ALL
    SELECT 'none' WHERE NOT EXISTS (FROM recommendations)
),
interactions AS (
    SELECT DISTINCT user_id, item_id FROM read_parquet($interactions, hive_partitioning = false)
),
user_counts AS (
    SELECT model, user_id, count(*) AS rows, count(DISTINCT item_id) AS items, max(rank) AS last_rank
    FROM recommendations
    GROUP BY model, user_id
),
left_over AS (
    SELECT
        user_id,
        (SELECT count(*) FROM read_parquet($items, hive_partitioning = false))
        - $exclude_seen::INTEGER * count(*) AS items
    FROM interactions
    GROUP BY user_id
)
SELECT
    (
        SELECT count(*)
        FROM left_over
        CROSS JOIN models
        LEFT JOIN user_counts USING (model, user_id)
        WHERE coalesce(user_counts.rows, 0) <> least(left_over.items, $k)
    ) AS users_with_too_few_or_many,
    (SELECT count(*) FROM user_counts ANTI JOIN left_over USING (user_id)) AS users_unknown,
    (SELECT count(*) FROM user_counts WHERE items <> rows OR last_rank <> rows) AS users_with_repeats_or_gaps,
    (SELECT count(*) FROM recommendations WHERE score > score_before) AS scores_that_rise,
    (SELECT count(*) FROM recommendations SEMI JOIN interactions USING (user_id, item_id) WHERE $exclude_seen)
        AS items_already_had
