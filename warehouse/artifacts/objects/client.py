"""Requests to a bucket. A request is repeated only if that is safe. A failure is one error with a readable message.

A conditional write may have happened even if its answer is lost. So after a failure of one, the object is read back and
compared with what was to be written. That works because nobody else would write the same bytes: they contain a random
number or a time.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from warehouse.artifacts.errors import ReadOnlyError, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Client", "Found", "Tag", "UnreachableError"]

A = TypeVar("A")

Tag = dict[str, str]
"""What tells one state of an object from another: its ETag, and where the server has them its version."""

RETRIES: Final = 8
"""How often a request is repeated, if that is safe. The pauses grow; together they last about a minute."""
_SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_URL: Final = re.compile(r"([a-z0-9]+)://([^/?#@]+)(/[^?#]*)?")
_TRIES: Final = 5
"""How often a conditional write is sent, if its answer was lost and it has not happened."""
_PART: Final = 8 << 20
"""Bytes of a part of an upload. A larger file is sent in several parts."""
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound")
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_PATH: Final = re.compile(r'[Pp]ath "([^"]{0,200})')
_STATUS: Final = re.compile(r"status code: (\d{3}[A-Za-z ]{0,40})")


class UnreachableError(StoreError, ConnectionError):
    """The object store did not answer, or it answered that it cannot do this now (`answered`). It may work later."""

    def __init__(self, message: str, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True)
class Found:
    """What a listing says about an object. `modified` is a time of the server's clock, in whole seconds."""

    key: str
    bytes: int
    modified: datetime
    tag: Tag


class Client:
    """The objects below one address, such as s3://bucket/prefix. The constructor sends no request.

    Every method raises `StoreError` if the bucket does not exist or refuses the request, and `UnreachableError` if the
    server does not answer.
    """

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        if match is None or match[1] not in _SCHEMES:
            shown = re.sub("//[^/]*@", "//…@", url.partition("?")[0])[:200]
            raise StoreError(
                f"{shown!r} is no place for a store: write s3://bucket/prefix, "
                "gs://bucket/prefix or az://container/prefix, without a password or a question mark"
            )
        if find_spec("obstore") is None:
            raise StoreError(f"{url} needs obstore: pip install 'mmm4rec[store]'")
        self.url = url.rstrip("/")
        self.bucket = match[2]

    @cached_property
    def _store(self) -> "ObjectStore":
        from obstore.store import from_url

        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        retries: Any = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(minutes=3),
            "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15), "base": 2},
        }
        # A request fails if the server is silent for long, not if the whole takes long: a file may be large.
        options: Any = {"allow_http": plain, "connect_timeout": "10s", "read_timeout": "30s", "timeout": "2h"}
        with self._in_words("opening it"):
            store: ObjectStore = from_url(self.url, client_options=options, retry_config=retries)
        return store

    def read(self, key: str) -> tuple[bytes, Tag] | None:
        """The bytes of a small object and the state that they were read in; None if there is none."""
        import obstore

        def send() -> tuple[bytes, Tag]:
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), _tag(found.meta)

        return self._if_there(f"reading {key}", send)

    def look(self, key: str) -> Found | None:
        """What an object is, without its bytes; None if there is none."""
        import obstore

        return self._if_there(f"looking at {key}", lambda: _found(obstore.head(self._store, key)))

    def write(self, key: str, data: bytes) -> None:
        """Write a small object. It replaces what is there."""
        import obstore

        self._sent(f"writing {key}", lambda: obstore.put(self._store, key, data, use_multipart=False), writing=True)

    def create(self, key: str, data: bytes) -> Tag | None:
        """Write an object that is not there yet, and return its state; None if there is one."""
        return self._conditionally(key, data, None)

    def replace(self, key: str, data: bytes, tag: Tag) -> Tag | None:
        """Write an object that is still in the state `tag`, and return its new state; None if it is not."""
        return self._conditionally(key, data, tag)

    def remove(self, *keys: str) -> None:
        """Remove objects. It is no error if one is not there."""
        import obstore

        def send(some: list[str]) -> None:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, some)

        for first in range(0, len(keys), 1000):
            some = [*keys[first : first + 1000]]
            self._sent("removing objects", lambda some=some: send(some), writing=True)  # type: ignore[misc]

    def upload(self, path: Path, key: str) -> None:
        """Send a file. The object appears when all of its bytes have arrived."""
        import obstore

        def send() -> None:
            obstore.put(self._store, key, path, chunk_size=_PART, max_concurrency=4)

        self._sent(f"uploading {path.name}", send, writing=True)

    def stream(self, key: str, begin: Callable[[], Callable[[bytes], object]]) -> Found | None:
        """Pass the bytes of an object, piece by piece, to the function that `begin` returns, and return which state of
        the object they are; None if there is no object.

        If the connection breaks, `begin` is called again, and the bytes start again with the first.
        """
        import obstore

        def send() -> Found:
            answer, take = obstore.get(self._store, key), begin()
            for piece in answer.stream(min_chunk_size=1 << 20):
                take(bytes(piece))
            return _found(answer.meta)

        return self._if_there(f"downloading {key}", send)

    def download(self, key: str, path: Path) -> tuple[Found, str] | None:
        """Write the bytes of an object to a file, and return their state and sha256; None if there is none."""
        digest = sha256()
        with path.open("wb") as file:

            def begin() -> Callable[[bytes], None]:
                nonlocal digest
                digest = sha256()
                file.seek(0)
                file.truncate()
                return take

            def take(piece: bytes) -> None:
                digest.update(piece)
                file.write(piece)

            found = self.stream(key, begin)
            return (found, digest.hexdigest()) if found else None

    def listed(self, prefix: str | None = None) -> list[Found]:
        """All objects below a prefix, or all, in no order. The prefix consists of whole names between slashes."""
        import obstore

        def send() -> list[Found]:
            return [_found(entry) for page in obstore.list(self._store, prefix, chunk_size=1000) for entry in page]

        return self._sent(f"listing {prefix or 'it'}", send)

    def directly(self, prefix: str | None = None) -> list[Found]:
        """The objects below a prefix whose names have no further slash, in no order."""
        import obstore

        listed = self._sent("listing it", lambda: obstore.list_with_delimiter(self._store, prefix)["objects"])
        return [_found(entry) for entry in listed if entry["path"]]  # the object of an empty name stands for a folder

    def folders(self) -> list[str]:
        """The first names of all objects."""
        import obstore

        return self._sent(
            "listing it", lambda: sorted(obstore.list_with_delimiter(self._store, None)["common_prefixes"])
        )

    def _if_there(self, doing: str, send: Callable[[], A]) -> A | None:
        """The result of a request for one object; None if there is no such object."""
        try:
            return self._sent(doing, send)
        except FileNotFoundError:
            return None

    def _sent(self, doing: str, send: Callable[[], A], writing: bool = False) -> A:
        """The result of a request that may be sent any number of times.

        obstore repeats it if the server is too busy. Here it is repeated if the connection broke.
        """
        for number in range(_TRIES):
            try:
                with self._in_words(doing, writing):
                    return send()
            except UnreachableError as error:
                if error.answered or number == _TRIES - 1:
                    raise
                time.sleep(0.1 * 2**number)
        raise AssertionError("unreachable")

    def _conditionally(self, key: str, data: bytes, tag: Tag | None) -> Tag | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError

        mode: Any = tag or "create"
        for left in reversed(range(_TRIES)):
            with self._in_words(f"writing {key}", writing=True):
                try:
                    return _tag(obstore.put(self._store, key, data, mode=mode, use_multipart=False))
                except PermissionDeniedError:
                    raise
                except (BaseError, FileNotFoundError) as error:
                    now = self.read(key)
                    if now is not None and now[0] == data:
                        return now[1]  # it was ours, and only its answer was lost
                    refused = isinstance(error, AlreadyExistsError | PreconditionError)
                    if (now[1] if now else None) != tag:
                        return None
                    # The server refuses, but the object is as before: somebody may be writing it at this moment.
                    if not left:
                        if refused:
                            return None
                        raise
        return None

    @contextmanager
    def _in_words(self, doing: str, writing: bool = False) -> Iterator[None]:
        """Turn errors of the library into readable ones. Its own texts may repeat what was sent, so none is shown."""
        from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except InvalidPathError as error:
            raise StoreError(
                f"{self.url} holds an object with a name that cannot be used ({_first(_PATH, error)!r}): rename or "
                "remove it; names have no control characters, and no two slashes in a row"
            ) from None
        except (BaseError, FileNotFoundError) as error:
            if any(code in str(error) for code in _NO_BUCKET):
                raise StoreError(
                    f"there is no bucket {self.bucket}: create it, or correct the address {self.url}"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise
            status, code = _first(_STATUS, error) or "", _first(_CODE, error)
            if code == "RequestTimeTooSkewed":
                raise StoreError(
                    f"{self.url} refuses {doing} ({code}): the clock of this machine differs too much from that of the "
                    "server; set it, for example with NTP, then try it again"
                ) from None
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status[:3] in ("401", "403"):
                kind = ReadOnlyError if writing and code in ("AccessDenied", None) else StoreError
                raise kind(
                    f"{self.url} refuses {doing} ({code or status or 403}): check the credentials (AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY or others); they must let this process list, get, put and delete objects"
                ) from None
            said = " ".join(filter(None, (status, code))) or "no answer"
            raise UnreachableError(
                f"{self.url} failed while {doing} ({said}): check address, network and credentials, then try it again",
                bool(status),
            ) from None


def _first(pattern: re.Pattern[str], error: BaseException) -> str | None:
    match = pattern.search(str(error))
    return match[1].strip() if match else None


def _tag(told: Any) -> Tag:
    return {name: told[name] for name in ("e_tag", "version") if told.get(name)}


def _found(told: Any) -> Found:
    return Found(told["path"], told["size"], told["last_modified"], _tag(told))
