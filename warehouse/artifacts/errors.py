"""The errors of the artifact store."""

import errno
from typing import Final

__all__ = ["READ_ONLY", "DamagedError", "ReadOnlyError", "StoreError"]

READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a place that this process may not write to."""


class StoreError(ValueError):
    """An artifact store cannot do or find something. The message names the object, the cause and the fix."""


class DamagedError(StoreError):
    """What names a version, or its manifest, or one of its files cannot be used; to build it again mends it."""


class ReadOnlyError(StoreError):
    """A folder that must be writable is read-only or belongs to another user."""
