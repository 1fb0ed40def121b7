-- How many test items were rarely or never seen in training?
-- $few = 2: an item is rare if it has at most this many interactions in training
SELECT
    domain,
    count(*) AS test_interactions,
    count(*) FILTER (training_interactions = 0) AS on_unseen_items,
    count(*) FILTER (training_interactions <= $few) AS on_rare_items,
    avg((training_interactions <= $few)::INTEGER) AS share_on_rare_items,
    count(DISTINCT item_id) FILTER (training_interactions <= $few) AS rare_items
FROM core.sequences_interactions
JOIN core.sequences_items USING (domain, item_id)
WHERE split = 'test'
GROUP BY domain
ORDER BY share_on_rare_items DESC, domain
