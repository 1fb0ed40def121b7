"""Where the published implementation and the default mode differ: one named rule for each fixed defect.

The rest of the package checks a rule by name and never checks the mode. Both modes apply SiLU after every convolution,
share the rank of ties, treat NaN as an error, and load strictly.
"""

from dataclasses import dataclass

from mmm4rec.config import Compat


@dataclass(frozen=True)
class Rules:
    """The rules of a mode. The comment names the places that apply the rule."""

    gaps_run_into_padding: bool  # model.gaps.gap_inputs
    label_time_is_input: bool  # data.examples.Examples.batch
    dead_time_start: bool  # model.gaps.StepScale.reset_parameters, model.gaps.FourierMixing.reset_parameters
    padding_is_candidate: bool  # model.recommender.Recommender.scores, model.losses.full_cross_entropy
    repeated_labels_are_negatives: bool  # model.losses.in_batch_cross_entropy
    missing_modality_is_a_vector: bool  # model.mmm4rec.MMM4Rec.item_vectors, model.mmm4rec.MMM4Rec.score_vectors
    item_vectors_in_pretraining: bool  # training.fit.pretrain


_RULES = {
    "published": Rules(
        gaps_run_into_padding=True,
        label_time_is_input=True,
        dead_time_start=True,
        padding_is_candidate=True,
        repeated_labels_are_negatives=True,
        missing_modality_is_a_vector=True,
        item_vectors_in_pretraining=True,
    ),
    "default": Rules(
        gaps_run_into_padding=False,
        label_time_is_input=False,
        dead_time_start=False,
        padding_is_candidate=False,
        repeated_labels_are_negatives=False,
        missing_modality_is_a_vector=False,
        item_vectors_in_pretraining=False,
    ),
}


def rules(compat: Compat) -> Rules:
    """The rules of a mode."""
    return _RULES[compat]
