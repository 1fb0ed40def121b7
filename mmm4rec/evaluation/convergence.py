"""How fast a training comes near its best value: one rule for the trainer, the reports and the comparisons."""

from collections.abc import Sequence

NEAR_BEST = 0.95
"""The reports show when a training first reaches this share of its best validation metric."""


def first_near_best(values: Sequence[float | None], best: float | None = None) -> int | None:
    """The first epoch where a metric reaches NEAR_BEST of the best; None if it never does or was never measured.

    Args:
        values: the value of each epoch; None where it was not measured.
        best: the value to compare with, such as the best of another training. None: the best of `values`.
    """
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    enough = NEAR_BEST * (max(measured) if best is None else best)
    return next((place for place, value in enumerate(values) if value is not None and value >= enough), None)
