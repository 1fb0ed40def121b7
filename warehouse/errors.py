"""The error of code that reads raw files, makes tables from them, or queries the catalogue."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data, a query or a file cannot be used. The message names it, the cause, and how to fix it."""
