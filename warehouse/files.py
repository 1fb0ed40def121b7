"""Opening files that strangers may have put there. `features` and `mmm4rec` have the same for their rooms."""

import errno
import stat
from pathlib import Path

__all__ = ["regular"]


def regular(path: Path) -> Path:
    """The same path, if it leads to a regular file, through links or not.

    To open a FIFO, a socket or a device can wait for ever, and reading one need not end.

    Raises:
        OSError: it does not, or leads nowhere; `strerror` says which.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path
