-- Validation NDCG@10 by epoch, for the models of each target domain (from scratch and fine-tuned).
SELECT domain, model, epoch, ndcg_10
FROM reports.metrics_curves
WHERE model IN ('scratch', 'finetuned')
ORDER BY domain, model, epoch
