"""The errors of the artifact store."""

__all__ = ["ReadOnlyError", "StoreError"]


class StoreError(ValueError):
    """Something an artifact store cannot do or find; the message names the thing, the cause and what mends it."""


class ReadOnlyError(StoreError):
    """A folder that would have to be written to is read-only, or another user's."""
