"""The unfinished bytes of a raw file that is being fetched, notes about their source, and the record of a whole file.

    <target>.part, <target>.part.json    the bytes fetched so far, and the notes about their source
    <folder>/.fetched/<name>.json        what was fetched: address, sha256, bytes, time, validators

`warehouse.raw.protocols` gets the bytes.
"""

import fcntl
import gzip
import json
import logging
import os
import re
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from warehouse.artifacts.durable import flush, replacing, write_durably
from warehouse.artifacts.files import sha256_file
from warehouse.errors import DataError

__all__ = ["Fetched", "Notes", "Unfinished", "damage_of", "recorded", "wrong_content_of"]

_PAGE: Final = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)

_log = logging.getLogger("mmm4rec")


@dataclass(frozen=True)
class Fetched:
    """A raw file on disk.

    For a file that was there before and was not fetched by this code, `url`, `fetched` (ISO 8601, UTC), `etag` and
    `last_modified` are None. `kept`: the file was there already, and no server was asked. `resumed_from`: bytes that an
    earlier, interrupted call had fetched.
    """

    path: Path
    url: str | None
    bytes: int
    sha256: str
    fetched: str | None
    etag: str | None = None
    last_modified: str | None = None
    kept: bool = False
    resumed_from: int = 0
    attempts: int = 0


@dataclass(frozen=True)
class Notes:
    """Describes the file that a part belongs to. `size` is in bytes, None if the server does not give it."""

    url: str
    size: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """The value that shows whether the server's file is still the same, byte for byte; a weak ETag cannot."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Unfinished:
    """The bytes of `target` that are fetched so far. A context manager: inside it no other process writes them.

    `carried`: how many of them come from an earlier call.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._beside = target.with_name(f"{target.name}.part.json")
        self.notes: Notes | None = None

    def __enter__(self) -> Self:
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _log.warning("%s is being fetched by another process: waiting for it", self.target)
                    fcntl.flock(self._file, fcntl.LOCK_EX)
                if self._in_place():
                    self.size = self.carried = os.lseek(self._file, 0, os.SEEK_END)
                    self.notes = self._read_notes()
                    return self
            except BaseException:
                os.close(self._file)
                raise
            # The process that held the lock has renamed the part, so this lock is on the finished file.
            os.close(self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 0 and self._in_place():
            self._beside.unlink(missing_ok=True)
            self.path.unlink()
        os.close(self._file)

    def keep_if_resumable(self, url: str) -> None:
        """Keep the bytes if the transfer from `url` can resume after them; otherwise clear them."""
        known = self.notes
        if known is None or known.url != url or not known.validator or self.size > (known.size or self.size):
            self.clear()

    def clear(self) -> None:
        """Forget everything. The bytes are removed first: notes must never describe the bytes of another file."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.fsync(self._file)
        self.size, self.carried, self.notes = 0, 0, None

    def start(self, notes: Notes) -> None:
        """Start over with the file that `notes` describe."""
        self.clear()
        write_durably(self._beside, json.dumps(asdict(notes)))
        self.notes = notes

    def append(self, chunk: bytes) -> None:
        """Write the bytes immediately, so that a killed process loses nothing."""
        rest = memoryview(chunk)
        while rest:
            written = os.write(self._file, rest)
            rest = rest[written:]
            self.size += written

    def finish(self, notes: Notes, sha256: str | None) -> Fetched:
        """Read the file through and rename it to the target.

        Raises:
            DataError: the bytes are damaged or do not have `sha256`; they are removed.
        """
        os.fsync(self._file)
        damage = damage_of(self.path, self.target.suffix == ".gz")
        digest = sha256_file(self.path)
        if not damage and sha256 and digest != sha256:
            damage = f"has the sha256 {digest[:16]}…, not {sha256[:16]}…"
        if damage:
            self.clear()
            raise DataError(
                f"the file from {notes.url} {damage}; it was removed: try again, or name another place with --from"
            )
        found = Fetched(
            path=self.target,
            url=notes.url,
            bytes=self.size,
            sha256=digest,
            fetched=datetime.now(UTC).isoformat(timespec="seconds"),
            etag=notes.etag,
            last_modified=notes.last_modified,
        )
        self._remember(found)
        self.path.replace(self.target)
        flush(self.target.parent)
        self._beside.unlink(missing_ok=True)
        return found

    def _remember(self, found: Fetched) -> None:
        """Write the record. This happens before the rename, so that every target has one, whenever the process ends."""
        record = _record(self.target)
        record.parent.mkdir(exist_ok=True)
        kept = ("url", "bytes", "sha256", "fetched", "etag", "last_modified")
        with replacing(record, record.with_suffix(".new")) as file:
            file.write(json.dumps({key: getattr(found, key) for key in kept}, indent=1).encode())
        flush(record.parent)

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def _read_notes(self) -> Notes | None:
        try:
            return Notes(**json.loads(self._beside.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def recorded(target: Path) -> Fetched | None:
    """What the record says about a fetched file, or None. Does not check whether the file is still the same."""
    try:
        facts = json.loads(_record(target).read_text(encoding="utf-8"))
        return Fetched(path=target, **facts)
    except (OSError, ValueError, TypeError):
        return None


def _record(target: Path) -> Path:
    """One record per file, so that two processes that fetch different files never write the same record."""
    return target.parent / ".fetched" / f"{target.name}.json"


def damage_of(path: Path, gzipped: bool) -> str | None:
    """What is wrong with a file that has all its bytes, or None. A gzip stream is read to its end."""
    with path.open("rb") as file:
        if found := wrong_content_of(file.read(512), gzipped):
            return found
    if gzipped:
        try:
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is cut or damaged: its gzip stream breaks off ({error})"
    return None


def wrong_content_of(head: bytes, gzipped: bool) -> str | None:
    """What a file is by its first bytes, if it cannot be a raw file; otherwise None."""
    if not head:
        return "is empty"
    if _PAGE.match(head):
        return "is a web page, not a raw file"
    if gzipped and not head.startswith(b"\x1f\x8b"):
        return "is not a gzip file"
    return None
