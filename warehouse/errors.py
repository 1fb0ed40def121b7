"""The warehouse's errors."""

__all__ = ["ReadOnlyError", "WarehouseError"]


class WarehouseError(ValueError):
    """Something the warehouse cannot do; the message names the thing, the cause and what mends it."""


class ReadOnlyError(WarehouseError):
    """A folder that would have to be written to is read-only, or another user's."""
