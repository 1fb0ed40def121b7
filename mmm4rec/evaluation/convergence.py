"""How soon a training comes near its best: one rule for the trainer, the reports and the comparisons."""

from collections.abc import Sequence

NEAR_BEST = 0.95
"""Share of the best validation metric whose first reaching is reported."""


def first_near_best(values: Sequence[float | None], best: float | None = None) -> int | None:
    """Where a metric by epoch first reaches NEAR_BEST of the best; None where it never does, or was never measured.

    Args:
        values: of each epoch; None where it was not measured.
        best: the best to compare with, such as that of another training. None: the best of `values`.
    """
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    enough = NEAR_BEST * (max(measured) if best is None else best)
    return next((place for place, value in enumerate(values) if value is not None and value >= enough), None)
