-- Every rating with a fingerprint of its content, and the number of the reason why it is no interaction; 0: no reason.
-- Duplicates, reason 1, are found later, from the fingerprints.
SELECT
    ratings.line,
    hash(ratings.user_id, ratings.item_id, ratings.rating, ratings.time) AS fingerprint,
    CASE
        WHEN items.item_id IS NULL THEN 2
        WHEN ratings.rating < $minimum_rating THEN 3
        WHEN ratings.time < $since OR ratings.time >= $until THEN 4
        ELSE 0
    END::UTINYINT AS reason
FROM read_parquet($ratings, hive_partitioning = false) AS ratings
LEFT JOIN read_parquet($items, hive_partitioning = false) AS items USING (item_id)
