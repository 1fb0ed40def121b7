"""The errors of this package. Every message names the affected object, the cause and the fix."""


class ModelError(ValueError):
    """The model cannot work with the data, a checkpoint or a setting."""


class ConfigError(ModelError):
    """A setting is unknown, missing, of the wrong type or out of range."""
