"""Asks a web server, or any file system that fsspec reads, for the missing bytes of a raw file.

`warehouse.raw.fetch` decides what to do with the bytes, and how often to ask.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import fsspec
import requests
import urllib3.exceptions
from fsspec.core import url_to_fs

from warehouse.artifacts.http import is_temporary, retry_after
from warehouse.errors import DataError
from warehouse.raw.unfinished import Notes, Unfinished

__all__ = ["LONGEST_WAIT", "Body", "MissingFileError", "TemporaryError", "ask", "without_login"]

LONGEST_WAIT: Final = 600.0
"""Seconds. If a server asks for a longer wait, it is asked again after this time."""
_CHUNK: Final = 64 << 10
_AGENT: Final = "mmm4rec (fetches public data sets)"
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)")


class MissingFileError(DataError):
    """The server or file system answered, and has no such file."""


class TemporaryError(Exception):
    """A failure that may not happen again.

    Retry after `after` seconds at the earliest. `distrusted`: the bytes fetched so far must not be used.
    """

    def __init__(self, cause: str, after: float = 0.0, distrusted: bool = False) -> None:
        super().__init__(cause)
        self.after = after
        self.distrusted = distrusted


@dataclass(frozen=True)
class Body:
    """An answer: the bytes of a file from `start` on. `framed`: it would be noticed if the answer broke off."""

    notes: Notes
    start: int
    chunks: Iterator[bytes]
    framed: bool = True


def ask(url: str, part: Unfinished, timeout: float) -> AbstractContextManager[Body]:
    """The answer from `url`. It starts where the part ends if the file there is still the same, otherwise at byte 0.

    Args:
        url: http, https, or an address of a file system that fsspec knows.
        part: the bytes that are there already.
        timeout: seconds of silence after which a web server is given up.

    Raises:
        MissingFileError: there is no such file.
        TemporaryError: another attempt may succeed.
        DataError: another attempt will not succeed.
    """
    return _http(url, part, timeout) if _is_http(url) else _any_file_system(url, part)


@contextmanager
def _http(url: str, part: Unfinished, timeout: float) -> Iterator[Body]:
    """Ask a web server for the missing bytes."""
    name, known = without_login(url), part.notes
    # No compression for the transfer: a compressed body would not have the announced length.
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if part.size and known and known.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": known.validator}
    with requests.Session() as session:
        try:
            answer = session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException as error:
            temporary = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
            if isinstance(error, temporary) and "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise TemporaryError(f"no connection ({_cause(error)})") from error
            raise DataError(f"{name} cannot be requested: {_cause(error)}") from error
        with answer:
            yield _read_answer(answer, name, part)


def _read_answer(answer: requests.Response, name: str, part: Unfinished) -> Body:
    """Interpret an answer; its body is not read yet."""
    headers, status = answer.headers, answer.status_code
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    known, have = part.notes, part.size
    changed = known is not None and any(
        old and new and old != new for old, new in ((known.etag, etag), (known.last_modified, modified))
    )
    if status == 416:
        end = _NO_RANGE.fullmatch(headers.get("Content-Range", ""))
        whole = end is not None and int(end[1]) == have and known is not None and known.size in (have, None)
        if not whole or changed or known is None or have == 0:
            raise TemporaryError("the server does not have the requested range (416)", distrusted=True)
        return Body(replace(known, size=have), have, iter(()))
    if status not in (200, 206):
        raise _refusal(name, answer)
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html":
        raise DataError(f"{name} is a web page, not a raw file; open it in a browser, or name another place")
    if headers.get("Content-Encoding", "identity") != "identity" and part.target.suffix != ".gz":
        raise DataError(f"{name} comes compressed, which was not requested; name another place")
    framed = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if status == 200:
        size = None if framed else _number(headers.get("Content-Length"))
        return Body(Notes(name, size, etag, modified), 0, _chunks(answer), framed)
    span = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if span is None or known is None or have == 0 or int(span[1]) != have:
        raise TemporaryError(
            f"the server sent another range than requested ({headers.get('Content-Range')!r}, not from {have})",
            distrusted=True,
        )
    total = known.size if span[3] == "*" else int(span[3])
    if changed or known.size not in (None, total) or (total is not None and int(span[2]) >= total):
        raise TemporaryError("the file changed on the server", distrusted=True)
    return Body(replace(known, size=total), have, _chunks(answer), framed or total is not None)


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    """The body as it is transferred: a .gz file that is declared as a compressed transfer stays a .gz file."""
    try:
        while chunk := answer.raw.read(_CHUNK, decode_content=False):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TemporaryError(f"the answer broke off ({_cause(error)})") from error


def _refusal(name: str, answer: requests.Response) -> Exception:
    """The error for a status code."""
    status = answer.status_code
    if is_temporary(status):
        return TemporaryError(
            f"the server answered {status} {answer.reason}",
            retry_after(answer.headers.get("Retry-After"), LONGEST_WAIT),
        )
    if status in (404, 410):
        return MissingFileError(
            f"{name} is not there ({status}): check the spelling of the category, or name another place with --from"
        )
    if status in (401, 403):
        return DataError(
            f"{name} needs a permission ({status} {answer.reason}): fetch it with a browser and put it into the raw "
            "folder, or name another place with --from"
        )
    return DataError(
        f"{name} cannot be fetched: the server answered {status} {answer.reason}; name another place with --from"
    )


@contextmanager
def _any_file_system(url: str, part: Unfinished) -> Iterator[Body]:
    """Open a file of any other file system; the file's identity there serves as the ETag."""
    name = without_login(url)
    try:
        system, path = url_to_fs(url)
        facts = system.info(path)
        if facts.get("type") == "directory":
            raise MissingFileError(f"{name} is a folder, not a file; name another place with --from")
        notes = Notes(name, facts.get("size"), str(system.ukey(path)), None)
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
        raise TemporaryError(f"no connection ({_cause(error)})") from error
    except Exception as error:  # every file system raises its own types of errors
        raise DataError(f"{name} cannot be read ({_cause(error)}); name another place with --from") from error
    with file:
        yield Body(notes, start, _read(file))


def _read(file: fsspec.spec.AbstractBufferedFile) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except (OSError, EOFError) as error:
        raise TemporaryError(f"reading broke off ({_cause(error)})") from error


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme.lower() in ("http", "https")


def without_login(url: str) -> str:
    """The address without user name and password, to be shown and stored."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(f"{type(error).__name__}: {error}".split())
