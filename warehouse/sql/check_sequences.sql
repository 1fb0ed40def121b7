-- Users and items have at least k interactions, each sequence is in the order of time without gaps, and the split is as
-- declared: no interaction for validation or testing comes before one of an earlier part.
WITH interactions AS (
    SELECT
        *,
        lag(time) OVER (PARTITION BY user_index ORDER BY step) AS time_before,
        list_position(['train', 'validation', 'test'], split) AS part
    FROM read_parquet($interactions, hive_partitioning = false)
),
numbered AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY user_index) AS length,
        max(part) OVER (PARTITION BY user_index ORDER BY step) AS latest_part
    FROM interactions
),
user_counts AS (
    SELECT
        count(*) AS interactions,
        max(step) AS last_step,
        count(*) FILTER (split = 'test' AND step <> length) AS misplaced_test,
        count(*) FILTER (split = 'validation' AND step <> length - 1) AS misplaced_validation,
        count(*) FILTER (split <> 'train') AS held_out
    FROM numbered
    GROUP BY user_index
),
item_counts AS (
    SELECT count(*) AS interactions FROM interactions GROUP BY item_index
)
SELECT
    (SELECT count(*) FROM user_counts WHERE interactions < least($k, $max_length)) AS users_below_k,
    (SELECT count(*) FROM item_counts WHERE interactions < $k AND $max_length IS NULL) AS items_below_k,
    (SELECT count(*) FROM user_counts WHERE interactions > $max_length) AS users_too_long,
    (SELECT count(*) FROM interactions WHERE time < time_before) AS steps_back_in_time,
    (SELECT count(*) FROM user_counts WHERE last_step <> interactions) AS users_with_gaps,
    (SELECT count(*) FROM numbered WHERE part < latest_part) AS steps_back_in_split,
    CAST($split NOT IN ('leave_one_out', 'global_time') AS INTEGER) AS rules_that_this_check_does_not_know,
    (
        SELECT count(*) FROM user_counts
        WHERE $split = 'leave_one_out' AND (held_out <> 2 OR misplaced_test > 0 OR misplaced_validation > 0)
    ) AS users_split_wrongly,
    (
        SELECT count(*) FROM interactions
        WHERE
            $split = 'global_time'
            AND split <> CASE
                WHEN time >= $test_from THEN 'test'
                WHEN time >= $validation_from THEN 'validation'
                ELSE 'train'
            END
    ) AS on_the_wrong_side_of_the_border
