"""The one error class of the feature store."""


class FeatureError(ValueError):
    """The feature store cannot use an input. The message names the input, the reason and the fix."""
