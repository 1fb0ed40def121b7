"""Baselines to compare the model with: same data, trainer, candidates, history length and evaluation.

Two baselines count and are not trained: `popularity` and `item_knn`. `mmm4rec.training.fit` trains the others. Each of
them follows its paper and has its own file: `gru4rec`, `sasrec`, `bsarec`, `mamba4rec`, `tim4rec`, `unisrec`. `items`
contains their common parts, `config` their sizes and names, and `fitting` trains several of them on a domain. The text
form of a baseline uses adapted text vectors for items instead of trainable vectors.

Their loss is that of the trainer, cross-entropy over all items, as in comparisons of papers since 2023. GRU4Rec and
SASRec were first published with sampled losses. The trainer shuffles the batches.

Some models are left out, because their public descriptions are not enough to build them:

- M3Rec (ICASSP 2025): its paper is behind a paywall. The abstract names shared Mamba blocks and modality experts, but
  gives neither the equations of the experts nor the way in which the modalities make a score.
- HM4SR (arXiv 2501.14269): it has two levels of experts and three auxiliary losses, one of which predicts the
  categories of items. Models here do not get categories, and without that loss it would be another model under the same
  name.
- ATHWE (accepted in 2026): no public text of its equations was found, only second-hand summaries.
"""
