"""Fetching a raw file: resumed, retried, verified, recorded.

    <target>.part, <target>.part.json    the bytes had so far, and of which file they are
    <folder>/.fetched/<name>.json        what was fetched: address, sha256, bytes, time, validators

A file appears under its name only when it is whole: counted, read through, flushed and renamed. What breaks off, even
by kill -9, goes on where it stopped if the server can say that it still has the same file; else it starts over.
Which files a category has, and where they lie, is not known here.
"""

import fcntl
import gzip
import json
import logging
import os
import random
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import fsspec
import requests
import urllib3.exceptions
from fsspec.core import url_to_fs

from warehouse.artifacts.durable import flush, replacing, write_durably
from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.http import may_pass, retry_after
from warehouse.artifacts.progress import Progress
from warehouse.errors import DataError

__all__ = ["Fetched", "MissingFileError", "fetch_file", "recorded"]

_CHUNK: Final = 64 << 10
_LONGEST_WAIT: Final = 600.0
"""Seconds. A server that asks for more is asked again after this."""
_HEADWAY: Final = 1 << 20
"""Bytes. An attempt that brings this much has not failed, however it ends."""
_AGENT: Final = "mmm4rec (fetches public data sets)"
_PAGE: Final = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)")

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


class MissingFileError(DataError):
    """The place was reached and has no such file."""


def fetch_file(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    force: bool = False,
    retries: int = 5,
    wait: float = 1.0,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch `url` (http, https, or anything fsspec reads) as `target`, unless it is there already.

    What can pass (no connection, silence of `timeout` seconds, a body that breaks off, 408, 425, 429, 5xx) is tried
    again up to `retries` times in a row without headway, after `wait` seconds, doubled each time, give or take half,
    or when the server says. Processes that fetch the same target wait for each other. `progress` is told bytes.

    Raises:
        MissingFileError: there is no such file.
        DataError: it cannot be had, or it is damaged, is a web page, is not of `sha256`, or cannot be written;
            or a file at `target` is not what was fetched, and `force` is false.
    """
    name = _without_login(url)
    if not force and (kept := _kept(target, sha256)):
        return kept
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _Part(target) as part:
            # Another process may have fetched it while this one waited for the part.
            if not force and (kept := _kept(target, sha256)):
                part.clear()
                return kept
            part.keep_if_of(name)
            attempts, failures, best = 0, 0, part.size
            while True:
                attempts += 1
                try:
                    notes = _advance(url, part, timeout, progress)
                    break
                except _PassingError as error:
                    if error.distrusted:
                        part.clear()
                    failures = 0 if part.size >= best + _HEADWAY else failures + 1
                    best = max(best, part.size)
                    if failures > retries:
                        raise DataError(
                            f"{name} could not be fetched in {attempts} attempts: {error}; {_had(part.size)}"
                        ) from error
                    seconds = max(error.after, wait * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1.5))
                    seconds = min(seconds, _LONGEST_WAIT)
                    _log.warning("%s: %s; trying again in %.0f s", name, error, seconds)
                    time.sleep(seconds)
            return replace(part.finish(notes, sha256), resumed_from=part.carried, attempts=attempts)
    except OSError as error:
        there = target.with_name(f"{target.name}.part")
        size = there.stat().st_size if there.is_file() else 0
        raise DataError(
            f"{target} cannot be written while fetching {name} ({error.strerror or error}): make room there, or "
            f"permit it; {_had(size)}"
        ) from error


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


def _kept(target: Path, sha256: str | None) -> Fetched | None:
    """The file at `target` if there is one and it is the one fetched; one that nobody fetched is only read through."""
    if not target.is_file():
        return None
    digest = sha256_file(target)
    found = recorded(target)
    expected = sha256 or (found.sha256 if found else digest)
    if digest != expected:
        raise DataError(
            f"{target} is not the file that was {'asked for' if sha256 else 'fetched'}: its sha256 is {digest[:16]}…, "
            f"not {expected[:16]}…, so it was changed or damaged; fetch it anew with --force, or move it away"
        )
    if found is None or found.sha256 != digest:
        found = Fetched(target, None, target.stat().st_size, digest, None)
        if damage := _damage(target, target.suffix == ".gz"):
            raise DataError(f"{target} was there before and {damage}; fetch it anew with --force")
    return replace(found, kept=True)


class _PassingError(Exception):
    """What may go better next time, `after` seconds at the earliest; `distrusted`: with nothing of the part."""

    def __init__(self, cause: str, after: float = 0.0, distrusted: bool = False) -> None:
        super().__init__(cause)
        self.after = after
        self.distrusted = distrusted


@dataclass(frozen=True)
class _Notes:
    """Of which file a part is. `size` in bytes, None if the server does not say."""

    url: str
    size: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What tells that the server's file is still the same, byte for byte; a weak ETag does not."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


@dataclass(frozen=True)
class _Body:
    """An answer: the bytes of a file from `start` on. `framed`: that it broke off would be noticed."""

    notes: _Notes
    start: int
    chunks: Iterator[bytes]
    framed: bool = True


class _Part:
    """The bytes of `target` had so far. A context manager: within it no other process writes them.

    `carried`: how many of them an earlier call left.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._beside = target.with_name(f"{target.name}.part.json")
        self.notes: _Notes | None = None

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

    def keep_if_of(self, url: str) -> None:
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

    def start(self, notes: _Notes) -> None:
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

    def finish(self, notes: _Notes, sha256: str | None) -> Fetched:
        """Read it through and let it be the target; what is damaged is removed."""
        os.fsync(self._file)
        damage = _damage(self.path, self.target.suffix == ".gz")
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

    def _read_notes(self) -> _Notes | None:
        try:
            return _Notes(**json.loads(self._beside.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def _advance(url: str, part: _Part, timeout: float, progress: Progress | None) -> _Notes:
    """Ask once and append what comes, to the end of the file."""
    with _http(url, part, timeout) if _is_http(url) else _other(url, part) as body:
        size, chunk = body.notes.size, next(body.chunks, b"")
        if body.start == 0:
            # A page in place of the file is seen before it costs the bytes that are there.
            if (chunk or not size) and (found := _disguise(chunk, part.target.suffix == ".gz")):
                raise DataError(f"what {body.notes.url} gave {found}; open it in a browser, or name another place")
            part.start(body.notes)
        while chunk:
            if size is not None and part.size + len(chunk) > size:
                raise _PassingError(f"more than the {size:,} bytes announced came", distrusted=True)
            part.append(chunk)
            if progress:
                progress(part.size, size or part.size)
            chunk = next(body.chunks, b"")
    if size is not None and part.size < size:
        raise _PassingError(f"the answer broke off after {part.size:,} of {size:,} bytes")
    if size is None and not body.framed and part.target.suffix != ".gz":
        part.clear()
        raise DataError(
            f"{body.notes.url} came without a length, so nobody can tell whether it is whole; name another place"
        )
    return body.notes


@contextmanager
def _http(url: str, part: _Part, timeout: float) -> Iterator[_Body]:
    """Ask a web server for what is missing."""
    name, known = _without_login(url), part.notes
    # Bytes as they are: what is compressed on the way has another length than what is announced.
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if part.size and known and known.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": known.validator}
    with requests.Session() as session:
        try:
            answer = session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException as error:
            passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
            if isinstance(error, passing) and "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise _PassingError(f"no connection ({_cause(error)})") from error
            raise DataError(f"{name} cannot be asked for: {_cause(error)}") from error
        with answer:
            yield _read_answer(answer, name, part)


def _read_answer(answer: requests.Response, name: str, part: _Part) -> _Body:
    """What an answer means; its body is not read yet."""
    said, status = answer.headers, answer.status_code
    etag, modified = said.get("ETag"), said.get("Last-Modified")
    known, have = part.notes, part.size
    changed = known is not None and any(
        old and new and old != new for old, new in ((known.etag, etag), (known.last_modified, modified))
    )
    if status == 416:
        end = _NO_RANGE.fullmatch(said.get("Content-Range", ""))
        whole = end is not None and int(end[1]) == have and known is not None and known.size in (have, None)
        if not whole or changed or known is None or have == 0:
            raise _PassingError("the server has no such range (416)", distrusted=True)
        return _Body(replace(known, size=have), have, iter(()))
    if status not in (200, 206):
        raise _refusal(name, answer)
    if said.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html":
        raise DataError(f"{name} is a web page, no raw file; open it in a browser, or name another place")
    if said.get("Content-Encoding", "identity") != "identity" and part.target.suffix != ".gz":
        raise DataError(f"{name} comes compressed although that was not asked for; name another place")
    framed = "chunked" in said.get("Transfer-Encoding", "").lower()
    if status == 200:
        size = None if framed else _number(said.get("Content-Length"))
        return _Body(_Notes(name, size, etag, modified), 0, _chunks(answer), framed)
    span = _RANGE.fullmatch(said.get("Content-Range", "").strip())
    if span is None or known is None or have == 0 or int(span[1]) != have:
        raise _PassingError(
            f"another range came than asked for ({said.get('Content-Range')!r}, not from {have})", distrusted=True
        )
    total = known.size if span[3] == "*" else int(span[3])
    if changed or known.size not in (None, total) or (total is not None and int(span[2]) >= total):
        raise _PassingError("the file changed on the server", distrusted=True)
    return _Body(replace(known, size=total), have, _chunks(answer), framed or total is not None)


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    """The body as it came over the wire: a .gz that is declared as a compressed transfer stays a .gz."""
    try:
        while chunk := answer.raw.read(_CHUNK, decode_content=False):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _PassingError(f"the answer broke off ({_cause(error)})") from error


def _refusal(name: str, answer: requests.Response) -> Exception:
    """The error that a status means."""
    status = answer.status_code
    if may_pass(status):
        return _PassingError(
            f"the server answered {status} {answer.reason}",
            retry_after(answer.headers.get("Retry-After"), _LONGEST_WAIT),
        )
    if status in (404, 410):
        return MissingFileError(
            f"{name} is not there ({status}): check the spelling of the category, or name another place with --from"
        )
    if status in (401, 403):
        return DataError(
            f"{name} is not for everyone ({status} {answer.reason}): fetch it with a browser and put it into the raw "
            "folder, or name another place with --from"
        )
    return DataError(
        f"{name} cannot be had: the server answered {status} {answer.reason}; name another place with --from"
    )


@contextmanager
def _other(url: str, part: _Part) -> Iterator[_Body]:
    """Open a file of any other file system: the file's identity there stands for an ETag."""
    name = _without_login(url)
    try:
        system, path = url_to_fs(url)
        facts = system.info(path)
        if facts.get("type") == "directory":
            raise MissingFileError(f"{name} is a folder, no file; name another place with --from")
        notes = _Notes(name, facts.get("size"), str(system.ukey(path)), None)
        start = part.size if part.notes == notes else 0
        file = system.open(path, "rb")
        file.seek(start)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{name} is not there: check the spelling of the category, or name another place with --from"
        ) from error
    except (ConnectionError, TimeoutError) as error:
        raise _PassingError(f"no connection ({_cause(error)})") from error
    except Exception as error:  # every file system has errors of its own kind
        raise DataError(f"{name} cannot be read ({_cause(error)}); name another place with --from") from error
    with file:
        yield _Body(notes, start, _read(file))


def _read(file: fsspec.spec.AbstractBufferedFile) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except (OSError, EOFError) as error:
        raise _PassingError(f"reading broke off ({_cause(error)})") from error


def _damage(path: Path, gzipped: bool) -> str | None:
    """Why a file that is complete by its count is none all the same, or None; a gzip stream is read to its end."""
    with path.open("rb") as file:
        if found := _disguise(file.read(512), gzipped):
            return found
    if gzipped:
        try:
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is cut or damaged: its gzip stream breaks off ({error})"
    return None


def _disguise(head: bytes, gzipped: bool) -> str | None:
    """What a file is by its first bytes, if it is none of ours."""
    if not head:
        return "is empty"
    if _PAGE.match(head):
        return "is a web page, no raw file"
    if gzipped and not head.startswith(b"\x1f\x8b"):
        return "is no gzip file"
    return None


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme.lower() in ("http", "https")


def _without_login(url: str) -> str:
    """The address as it may be shown and stored."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(f"{type(error).__name__}: {error}".split())


def _had(size: int) -> str:
    return f"the {size:,} bytes had are kept, and the same command goes on from there" if size else "nothing is kept"
