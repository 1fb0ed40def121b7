"""The warehouse's one error class."""

__all__ = ["WarehouseError"]


class WarehouseError(ValueError):
    """Something the warehouse cannot do; the message names the thing, the cause and what mends it."""
