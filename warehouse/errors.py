"""The error of whoever reads raw files, makes tables of them, and asks the catalogue."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data, a question to them, or a file that cannot be used; the message names it, the cause and what mends it."""
