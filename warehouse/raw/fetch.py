"""Fetches a raw file: resumes, retries, verifies and records it.

A file gets its name only when it is complete: its bytes are counted, it is read through, flushed and renamed. If a
transfer breaks off, even by kill -9, it continues where it stopped if the server confirms that it still has the same
file; otherwise it starts over. `warehouse.raw.protocols` asks the server, and `warehouse.raw.unfinished` holds the
bytes in the meantime. The caller knows which files a category has, and where they are.
"""

import logging
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from warehouse.artifacts.files import sha256_file
from warehouse.artifacts.progress import Progress
from warehouse.errors import DataError
from warehouse.raw.protocols import LONGEST_WAIT, MissingFileError, TemporaryError, ask, without_login
from warehouse.raw.unfinished import Fetched, Notes, Unfinished, damage_of, recorded, wrong_content_of

__all__ = ["Fetched", "MissingFileError", "fetch_file", "recorded"]

_PROGRESS_BYTES: Final = 1 << 20
"""Bytes. An attempt that brings this many does not count as a failure, however it ends."""

_log = logging.getLogger("mmm4rec")


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
    """Fetch `url` (http, https, or any scheme of fsspec) as `target`, unless it is there already.

    Temporary failures (no connection, silence of `timeout` seconds, a body that breaks off, 408, 425, 429, 5xx) are
    retried. The call gives up after more than `retries` failures in a row without progress. It waits `wait` seconds
    before the first retry and twice as long before each further one, randomly up to half more or less, or as long as
    the server asks. Processes that fetch the same target wait for each other. `progress` counts bytes.

    Raises:
        MissingFileError: there is no such file.
        DataError: the file cannot be fetched, is damaged, is a web page, does not have `sha256`, or cannot be written;
            or the file at `target` is not the one that was fetched, and `force` is false.
    """
    name = without_login(url)
    if not force and (kept := _kept(target, sha256)):
        return kept
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Unfinished(target) as part:
            # Another process may have fetched it while this one waited for the part.
            if not force and (kept := _kept(target, sha256)):
                part.clear()
                return kept
            part.keep_if_resumable(name)
            attempts, failures, best = 0, 0, part.size
            while True:
                attempts += 1
                try:
                    notes = _fetch_rest(url, part, timeout, progress)
                    break
                except TemporaryError as error:
                    if error.distrusted:
                        part.clear()
                    failures = 0 if part.size >= best + _PROGRESS_BYTES else failures + 1
                    best = max(best, part.size)
                    if failures > retries:
                        said = f"{name} could not be fetched in {attempts} attempts: {error}; {_kept_bytes(part.size)}"
                        raise DataError(said) from error
                    doubled = wait * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1.5)
                    seconds = min(max(error.after, doubled), LONGEST_WAIT)
                    _log.warning("%s: %s; trying again in %.0f s", name, error, seconds)
                    time.sleep(seconds)
            return replace(part.finish(notes, sha256), resumed_from=part.carried, attempts=attempts)
    except OSError as error:
        there = target.with_name(f"{target.name}.part")
        size = there.stat().st_size if there.is_file() else 0
        raise DataError(
            f"{target} cannot be written while fetching {name} ({error.strerror or error}): make room there, or "
            f"allow writing; {_kept_bytes(size)}"
        ) from error


def _kept(target: Path, sha256: str | None) -> Fetched | None:
    """The file at `target`, None if there is none. A file without a record of a fetch is only checked for damage.

    Raises:
        DataError: it is not the file that was fetched or asked for, or it is damaged.
    """
    if not target.is_file():
        return None
    digest = sha256_file(target)
    found = recorded(target)
    expected = sha256 or (found.sha256 if found else digest)
    if digest != expected:
        raise DataError(
            f"{target} is not the file that was {'asked for' if sha256 else 'fetched'}: its sha256 is {digest[:16]}…, "
            f"not {expected[:16]}…, so it was changed or damaged; fetch it again with --force, or move it away"
        )
    if found is None or found.sha256 != digest:
        found = Fetched(target, None, target.stat().st_size, digest, None)
        if damage := damage_of(target, target.suffix == ".gz"):
            raise DataError(f"{target} was already there and {damage}; fetch it again with --force")
    return replace(found, kept=True)


def _fetch_rest(url: str, part: Unfinished, timeout: float, progress: Progress | None) -> Notes:
    """Ask once, and append to `part` what the server sends, to the end of the file."""
    with ask(url, part, timeout) as body:
        size, chunk = body.notes.size, next(body.chunks, b"")
        if body.start == 0:
            # A web page in place of the file is noticed here, before it replaces the bytes already fetched.
            if (chunk or not size) and (found := wrong_content_of(chunk, part.target.suffix == ".gz")):
                raise DataError(
                    f"the file from {body.notes.url} {found}; open it in a browser, or name another place with --from"
                )
            part.start(body.notes)
        while chunk:
            if size is not None and part.size + len(chunk) > size:
                raise TemporaryError(f"more than the {size:,} announced bytes came", distrusted=True)
            part.append(chunk)
            if progress:
                progress(part.size, size or part.size)
            chunk = next(body.chunks, b"")
    if size is not None and part.size < size:
        raise TemporaryError(f"the answer broke off after {part.size:,} of {size:,} bytes")
    if size is None and not body.framed and part.target.suffix != ".gz":
        part.clear()
        raise DataError(
            f"{body.notes.url} came without a length, so it is unknown whether it is complete; name another place "
            "with --from"
        )
    return body.notes


def _kept_bytes(size: int) -> str:
    return f"the first {size:,} bytes are kept, and the same command continues there" if size else "nothing is kept"
