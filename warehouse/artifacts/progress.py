"""How a long piece of work says how far it is. Who shows it, and how, is not known here."""

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[int, int], None]
"""Called with (done, total): bytes of a raw file, pictures, texts."""
