"""What the settings of a domain say about its sequences: which ratings count, and how they are split.

Only declarations live here, so that settings are read without loading an engine.
"""

from dataclasses import dataclass

from warehouse.errors import DataError

__all__ = ["GlobalTimeSplit", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """Which ratings a domain learns from; None sets no limit."""

    minimum_rating: float | None = None
    """Stars."""
    since: int | None = None
    """Unix seconds, included."""
    until: int | None = None
    """Unix seconds, not included."""


@dataclass(frozen=True)
class GlobalTimeSplit:
    """One border in time for all users, as in production: nothing is learned from what lies after it.

    Interactions from `test_from` on are for testing, those from `validation_from` on and before that for validation,
    the rest for training. Unix seconds.
    """

    validation_from: int
    test_from: int

    def __post_init__(self) -> None:
        if not self.validation_from < self.test_from:
            raise DataError("validation_from must lie before test_from: swap them, or move one")
