"""Recommenders to measure the model against: same data, trainer, candidates, history length and evaluation.

Counted, not trained: `popularity`, `item_knn`. Trained by `mmm4rec.training.fit`, each from its paper in a file of its
own: `gru4rec`, `sasrec`, `bsarec`, `mamba4rec`, `tim4rec`, `unisrec`; in `items` what these share, in `config` their
sizes and names, in `fitting` the training of several of them on a domain. A text form has adapted text vectors for
items, in place of trainable ones.

Their loss is the trainer's, cross-entropy over all items, as in the comparisons of the papers from 2023 on; GRU4Rec and
SASRec were first published with sampled losses. Batches are shuffled, as the trainer does.

Left out, because what is public does not define them well enough to be built from their description:

- M3Rec (ICASSP 2025): its paper is behind a paywall; the abstract names shared Mamba blocks and modality experts, but
  neither the experts' equations nor how a score is made of the modalities.
- HM4SR (arXiv 2501.14269): two levels of experts and three auxiliary losses, one of which predicts the categories of
  items. Categories are no input of a model here, and without that loss it would be another model under the same name.
- ATHWE (accepted in 2026): no public text of its equations was found, only second-hand summaries.
"""
