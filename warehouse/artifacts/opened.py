"""Opening a store at the place that is given: a folder, or the address of a bucket."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from warehouse.artifacts.contract import DAY, ArtifactStore
from warehouse.artifacts.store import Store

if TYPE_CHECKING:
    from warehouse.artifacts.objects.store import Bucket

__all__ = ["CACHE_BYTES", "is_url", "open_bucket", "open_store"]

CACHE_BYTES: Final = 100 << 30
"""How large the cache of a bucket becomes, unless it is told otherwise."""


def is_url(place: str) -> bool:
    """Whether a text is the address of a bucket, or is meant to be one."""
    return "://" in place


def open_store(place: Path | str, data: Path, cache: Path, limit: int = CACHE_BYTES, grace: int = DAY) -> ArtifactStore:
    """The store at `place`, a folder or an address such as s3://bucket/prefix. Nothing is read or written yet.

    Args:
        place: where the versions are.
        data: the folder at whose top files are shown.
        cache: the local folder for the files of a bucket's versions; a store in a folder needs none.
        limit: bytes of the cache.
        grace: seconds from the first look of a collection to the one that may remove a version; for a new bucket.

    Raises:
        StoreError: the address is none.
    """
    if is_url(str(place)):
        return open_bucket(str(place), data, cache, limit, grace)
    return Store(Path(place))


def open_bucket(address: str, data: Path, cache: Path, limit: int = CACHE_BYTES, grace: int = DAY) -> "Bucket":
    """The store at an address; the arguments are those of `open_store`.

    Raises:
        StoreError: the address is none.
    """
    # Imported here, because a store in a folder needs none of it.
    from warehouse.artifacts.objects.store import Bucket

    return Bucket(address, data, cache, limit, grace)
