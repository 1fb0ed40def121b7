"""Pictures in WebDataset shards: tar files of <key>.<format> + <key>.json pairs, sorted by item id.

The key is the item id, percent-encoded except for letters, digits, ``_``, ``-`` and ``~``, because in a WebDataset key
a dot ends the key and a slash is a folder. The JSON contains the original id as well.

An extraction reads each picture from its place (:func:`read_bytes`), and does not need WebDataset. :func:`read_shards`
is for training on the pictures elsewhere, and needs WebDataset (the `shards` extra). It passes streams that are opened
here: WebDataset never gets an address, so its URL schemes (``pipe:`` runs a shell) cannot be used.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from features.errors import FeatureError
from features.pictures.decode import format_of

SHARD_BYTES = 128 * 2**20
SHARD_NAME = re.compile(r"images-\d{6}\.tar")
_BLOCK = 512
"""Bytes of a tar header; every member is padded to a multiple of it."""


@dataclass(frozen=True)
class Sample:
    """A picture as it was received: `item_id`, the original bytes `data`, and `meta`, its JSON sidecar."""

    item_id: str
    data: bytes
    meta: dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a picture's original bytes are: the file name of the shard, and the offset in it."""

    shard: str
    offset: int


def sample_key(item_id: str) -> str:
    """Key of an item in a shard: ASCII without dots and slashes, reversible with urllib.parse.unquote."""
    # WebDataset drops empty keys, so a single percent sign, which is no encoded id, stands for the empty id.
    return quote(item_id, safe="").replace(".", "%2E") or "%"


class ShardWriter:
    """Writes images-000000.tar, images-000001.tar ..., whose bytes depend only on the samples.

    A shard holds at least one sample. With more than one it has at most about `shard_bytes` bytes (tar pads its end to
    10 KiB). Call :meth:`add` in the order of item ids.
    """

    def __init__(self, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._out = out
        self._shard_bytes = shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._name = ""
        self.shards = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar:
            self._tar.close()

    def add(self, item_id: str, data: bytes, meta: dict[str, Any]) -> Place:
        """Append a picture's original bytes and its JSON sidecar; the item id is added to the sidecar."""
        key = sample_key(item_id)
        sidecar = json.dumps({"item_id": item_id, **meta}, sort_keys=True, ensure_ascii=False).encode()
        tar = self._tar_with_room(2 * _BLOCK + _padded(data) + _padded(sidecar))
        _member(tar, f"{key}.{format_of(data)}", data)
        place = Place(self._name, tar.offset - _padded(data))
        _member(tar, f"{key}.json", sidecar)
        return place

    def _tar_with_room(self, size: int) -> tarfile.TarFile:
        """The open shard, or the next one when `size` more bytes would exceed the bound."""
        if self._tar and self._tar.offset + size <= self._shard_bytes:
            return self._tar
        if self._tar:
            self._tar.close()
        self._name = f"images-{self.shards:06d}.tar"
        self.shards += 1
        # GNU format: plain headers, and names longer than 100 bytes.
        self._tar = tarfile.open(self._out / self._name, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        return self._tar


def _padded(data: bytes) -> int:
    """Bytes that a content takes in a tar file."""
    return -(-len(data) // _BLOCK) * _BLOCK


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, no user names, mode 0644
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def shard_names(folder: Path) -> list[str]:
    """Names of the shards of a folder, in order."""
    return sorted(path.name for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))


def read_shards(folder: Path, names: Iterable[str] | None = None) -> Iterator[Sample]:
    """Samples of the shards of a folder (all, or those in `names`), in the order of the shards.

    Raises:
        FeatureError: a shard is missing, cut off or not made by :class:`ShardWriter`; or webdataset is not installed.
    """
    try:  # imported here, because it imports torch if torch is installed
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ImportError as error:
        raise FeatureError(f"webdataset is not installed ({error}); `pip install 'mmm4rec[shards]'`") from error

    for name in shard_names(folder) if names is None else names:
        if not SHARD_NAME.fullmatch(name):
            raise FeatureError(f"{name!r} is not the name of a shard (images-000000.tar)")
        try:
            with (folder / name).open("rb") as stream:
                for sample in group_by_keys(tar_file_expander([{"url": name, "stream": stream}])):
                    meta = json.loads(sample.pop("json"))
                    (data,) = (value for field, value in sample.items() if not field.startswith("__"))
                    yield Sample(meta["item_id"], data, meta)
        except (OSError, tarfile.TarError, KeyError, ValueError) as error:
            raise FeatureError(f"{folder / name}: not a readable shard ({error!r}); rebuild item_images") from error


def read_bytes(folder: Path, place: Place, size: int) -> bytes:
    """Original bytes of one picture, read directly from its place."""
    if not SHARD_NAME.fullmatch(place.shard):
        raise FeatureError(f"{place.shard!r} is not the name of a shard (images-000000.tar)")
    with (folder / place.shard).open("rb") as stream:
        stream.seek(place.offset)
        return stream.read(size)
