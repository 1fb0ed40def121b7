"""What the settings of a domain say about its sequences: which ratings count, and how they are split.

This module holds only declarations, so that settings can be read without loading DuckDB.
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
    """A split at the same times for all users, as in production: a model never learns from later interactions.

    Interactions from `test_from` on are for testing, those from `validation_from` on and before `test_from` are for
    validation, the rest is for training. Unix seconds.
    """

    validation_from: int
    test_from: int

    def __post_init__(self) -> None:
        if not self.validation_from < self.test_from:
            raise DataError("validation_from must be before test_from: swap the dates, or change one")
