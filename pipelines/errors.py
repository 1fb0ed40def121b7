"""The errors of settings and commands, and all that a command may end in with words instead of a traceback."""

from features.errors import FeatureError
from mmm4rec.errors import ModelError
from warehouse.artifacts.errors import StoreError
from warehouse.errors import DataError

__all__ = ["EXPECTED", "CommandError", "SettingsError"]


class SettingsError(ValueError):
    """Settings that cannot be used: of domains.yaml, or of the environment."""


class CommandError(ValueError):
    """Something that was asked for and cannot be done."""


EXPECTED = (CommandError, SettingsError, StoreError, DataError, FeatureError, ModelError)
"""What is said in words; any other error is a fault of this project."""
