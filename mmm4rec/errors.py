"""The errors of this package. Every message names the thing, the cause and what mends it."""


class ModelError(ValueError):
    """Data, a checkpoint or a setting that the model cannot work with."""


class ConfigError(ModelError):
    """A setting that is unknown, missing, of the wrong type or out of range."""
