-- Validation NDCG@10 of every epoch of the models that a target domain is judged by.
SELECT domain, model, epoch, ndcg_10
FROM reports.metrics_curves
WHERE model IN ('scratch', 'finetuned')
ORDER BY domain, model, epoch
