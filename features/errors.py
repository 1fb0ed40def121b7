"""The one error class of the feature store."""


class FeatureError(ValueError):
    """Something the feature store was given cannot be used; the message says what, why and what mends it."""
