"""The callback that reports the progress of long work. The caller decides how to show it."""

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[int, int], None]
"""Called with (done, total): bytes of a raw file, pictures, texts."""
