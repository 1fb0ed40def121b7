"""Opening files that strangers may have put there, and the hash of one.

`mmm4rec` has the same, as it imports no other room.
"""

import errno
import hashlib
import stat
import zipfile
from pathlib import Path

__all__ = ["regular", "sha256_file", "stored"]


def regular(path: Path) -> Path:
    """The same path, if it leads to a regular file, through links or not.

    To open a FIFO, a socket or a device can wait for ever, and reading one need not end.

    Raises:
        OSError: it does not, or leads nowhere; `strerror` says which.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex.

    Raises:
        OSError: as `regular`, or it cannot be read.
    """
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored(path: Path) -> Path:
    """The same path, if it is a regular file, and what `torch.save` writes: an archive of members that are not packed.

    `torch.load` would unpack a member of gigabytes from megabytes of file before anyone can look at it.

    Raises:
        OSError: as `regular`; or an archive with packed members, or with more than its bytes; or no archive.
    """
    size = regular(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type for member in members) or sum(member.file_size for member in members) > size:
                raise OSError(errno.EINVAL, "an archive that unpacks to more than it is", str(path))
            pickles = [archive.read(member) for member in members if member.filename.endswith("data.pkl")]
    except zipfile.BadZipFile as error:
        raise OSError(errno.EINVAL, f"not an archive that torch.save writes ({error})", str(path)) from None
    if any(b"bytearray" in content for content in pickles):  # the one thing weights_only builds that has any length
        raise OSError(errno.EINVAL, "it asks for memory that is no tensor's", str(path))
    return path
