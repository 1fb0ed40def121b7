"""Opening files that may come from strangers. Same as `warehouse.artifacts.files`, which is not imported here."""

import errno
import stat
import zipfile
from pathlib import Path

__all__ = ["regular", "stored"]


def regular(path: Path) -> Path:
    """Return the same path if it is a regular file or a link to one.

    Opening a FIFO, a socket or a device can block forever, and reading it may never end.

    Raises:
        OSError: the path leads to something else or to nothing; `strerror` says which.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def stored(path: Path) -> Path:
    """Return the same path if it is a regular file in the format of `torch.save`: an archive without compression.

    `torch.load` would unpack gigabytes from a file of megabytes before anyone could check it.

    Raises:
        OSError: as `regular`; or the file is not an archive, has compressed members, or claims more bytes than it has.
    """
    size = regular(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type for member in members) or sum(member.file_size for member in members) > size:
                raise OSError(errno.EINVAL, "an archive that unpacks to more bytes than it has", str(path))
            pickles = [archive.read(member) for member in members if member.filename.endswith("data.pkl")]
    except zipfile.BadZipFile as error:
        raise OSError(errno.EINVAL, f"not an archive that torch.save writes ({error})", str(path)) from None
    if any(b"bytearray" in content for content in pickles):  # the only type with a free length that weights_only builds
        raise OSError(errno.EINVAL, "it asks for memory that belongs to no tensor", str(path))
    return path
