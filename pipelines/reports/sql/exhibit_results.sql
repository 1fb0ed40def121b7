-- NDCG@10 of the models of each domain on the test purchases.
SELECT
    domain,
    role,
    users,
    round(popularity_ndcg, 4) AS popularity,
    round(scratch_ndcg, 4) AS scratch,
    round(pretrained_ndcg, 4) AS pretrained,
    round(finetuned_ndcg, 4) AS finetuned
FROM results
ORDER BY role, domain
