"""The bytes of a raw file that is being fetched, of which file they are, and the record of one that is whole.

    <target>.part, <target>.part.json    the bytes had so far, and of which file they are
    <folder>/.fetched/<name>.json        what was fetched: address, sha256, bytes, time, validators

How bytes come from a place is the business of `warehouse.raw.protocols`.
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

__all__ = ["Fetched", "Notes", "Part", "damage_of", "recorded", "wrong_content_of"]

_PAGE: Final = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)

_log = logging.getLogger("mmm4rec")


@dataclass(frozen=True)
class Fetched:
    """A raw file at hand.

    Of a file that was there before and that nobody fetched, `url`, `fetched` (ISO 8601, UTC), `etag` and
    `last_modified` are None. `kept`: it was there and nothing was asked of any server. `resumed_from`: bytes taken
    over from an earlier call that broke off.
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
    """Of which file a part is. `size` in bytes, None if the server does not say."""

    url: str
    size: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What tells that the server's file is still the same, byte for byte; a weak ETag does not."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Part:
    """The bytes of `target` had so far. A context manager: within it no other process writes them.

    `carried`: how many of them an earlier call left.
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
            # Whoever held it has finished and renamed it: what is locked is the finished file.
            os.close(self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 0 and self._in_place():
            self._beside.unlink(missing_ok=True)
            self.path.unlink()
        os.close(self._file)

    def keep_if_resumable(self, url: str) -> None:
        """Keep what is there if it can be gone on with."""
        known = self.notes
        if known is None or known.url != url or not known.validator or self.size > (known.size or self.size):
            self.clear()

    def clear(self) -> None:
        """Forget everything. The bytes go first: notes must never speak of another file's bytes."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.fsync(self._file)
        self.size, self.carried, self.notes = 0, 0, None

    def start(self, notes: Notes) -> None:
        """Begin anew with the file that `notes` describe."""
        self.clear()
        write_durably(self._beside, json.dumps(asdict(notes)))
        self.notes = notes

    def append(self, chunk: bytes) -> None:
        """Write at once, so that a killed process has lost nothing."""
        rest = memoryview(chunk)
        while rest:
            written = os.write(self._file, rest)
            rest = rest[written:]
            self.size += written

    def finish(self, notes: Notes, sha256: str | None) -> Fetched:
        """Read it through and let it be the target; what is damaged is removed."""
        os.fsync(self._file)
        damage = damage_of(self.path, self.target.suffix == ".gz")
        digest = sha256_file(self.path)
        if not damage and sha256 and digest != sha256:
            damage = f"has the sha256 {digest[:16]}…, not {sha256[:16]}…"
        if damage:
            self.clear()
            raise DataError(
                f"what {notes.url} gave {damage}; it was removed: try once more, or name another place with --from"
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
        """Before the rename: of a target there is always a record, whenever the process ends."""
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
    """What the record says of a fetched file, or None; whether the file still is that one is not looked at."""
    try:
        facts = json.loads(_record(target).read_text(encoding="utf-8"))
        return Fetched(path=target, **facts)
    except (OSError, ValueError, TypeError):
        return None


def _record(target: Path) -> Path:
    """One record a file: two processes that fetch different files never write the same one."""
    return target.parent / ".fetched" / f"{target.name}.json"


def damage_of(path: Path, gzipped: bool) -> str | None:
    """Why a file that is complete by its count is none all the same, or None; a gzip stream is read to its end."""
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
    """What a file is by its first bytes, if it is none of ours."""
    if not head:
        return "is empty"
    if _PAGE.match(head):
        return "is a web page, no raw file"
    if gzipped and not head.startswith(b"\x1f\x8b"):
        return "is no gzip file"
    return None
