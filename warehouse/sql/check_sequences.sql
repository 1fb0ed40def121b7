-- Users and items have k interactions, order is total in time, and each user has one test and one validation item.
WITH interactions AS (
    SELECT *, lag(time) OVER (PARTITION BY user_index ORDER BY step) AS time_before
    FROM read_parquet($interactions)
),
user_counts AS (
    SELECT
        count(*) AS interactions,
        max(step) AS last_step,
        count(*) FILTER (split = 'test' AND step <> length) AS misplaced_test,
        count(*) FILTER (split = 'validation' AND step <> length - 1) AS misplaced_validation,
        count(*) FILTER (split <> 'train') AS held_out
    FROM (SELECT *, count(*) OVER (PARTITION BY user_index) AS length FROM interactions)
    GROUP BY user_index
),
item_counts AS (
    SELECT count(*) AS interactions FROM interactions GROUP BY item_index
)
SELECT
    (SELECT count(*) FROM user_counts WHERE interactions < $k) AS users_below_k,
    (SELECT count(*) FROM item_counts WHERE interactions < $k) AS items_below_k,
    (SELECT count(*) FROM interactions WHERE time < time_before) AS steps_back_in_time,
    (SELECT count(*) FROM user_counts WHERE last_step <> interactions) AS users_with_gaps,
    (SELECT count(*) FROM user_counts WHERE held_out <> 2 OR misplaced_test > 0 OR misplaced_validation > 0)
        AS users_split_wrongly
