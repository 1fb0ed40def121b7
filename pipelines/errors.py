"""The errors of settings and commands, and all errors that a command reports as a message and not as a traceback."""

from features.errors import FeatureError
from mmm4rec.errors import ModelError
from warehouse.artifacts.errors import StoreError
from warehouse.errors import DataError

__all__ = ["EXPECTED", "CommandError", "SettingsError"]


class SettingsError(ValueError):
    """Settings in domains.yaml or in the environment cannot be used."""


class CommandError(ValueError):
    """A command cannot do what the user requested."""


EXPECTED = (CommandError, SettingsError, StoreError, DataError, FeatureError, ModelError)
"""Errors that are reported as a message. Any other error is a bug in this project."""
