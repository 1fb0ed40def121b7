"""The errors of the artifact store."""

import errno
from typing import Final

__all__ = ["READ_ONLY", "ReadOnlyError", "StoreError"]

READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a place that this process may not write to."""


class StoreError(ValueError):
    """Something an artifact store cannot do or find; the message names the thing, the cause and what mends it."""


class ReadOnlyError(StoreError):
    """A folder that would have to be written to is read-only, or another user's."""
