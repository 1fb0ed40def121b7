"""The results of requests to http(s) addresses, stored in a folder that every version of the pictures shares.

    <cache>/<2 hex>/<sha256 of the address>   a line of JSON: url, status, detail, private, bytes, sha256; then the body
    <cache>/forgotten.json                    how often an address was forgotten, by the sha256 of the address

Failures are stored too. Whether a body is a good picture is not stored: features.pictures decides it by its current
rules. A file gets its name only when it is complete, whenever the process ends. A damaged file counts as missing.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.errors import FeatureError
from warehouse.artifacts.durable import replacing

_FORGOTTEN: Final = "forgotten.json"
_LITTER_AGE: Final = 3600.0
"""Seconds after which an unfinished file counts as abandoned."""
_LOGIN: Final = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True)
class Reply:
    """The result for an address: status `ok` and a body, or another status of `item_images.STATUSES` and details."""

    status: str
    detail: str | None = None
    body: bytes = b""


def is_web(address: str) -> bool:
    """Whether an address is http or https."""
    return address[:8].lower().startswith(("http://", "https://"))


def key_of(address: str) -> str:
    """The name of an address in the cache."""
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def recall(cache: Path, address: str, private: bool = False) -> Reply | None:
    """The stored reply; None if there is none, or its file is damaged.

    It is also None if the address was refused when private addresses were not allowed, and they are allowed now.
    """
    try:
        with _place(cache, key_of(address)).open("rb") as file:
            facts = json.loads(file.readline())
            reply = Reply(facts["status"], facts["detail"], file.read())
            whole = hashlib.sha256(reply.body).hexdigest() == facts["sha256"]
            outdated = reply.status == "refused" and private and not facts["private"]
            return reply if whole and not outdated else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(cache: Path, address: str, reply: Reply, private: bool = False) -> None:
    """Store the reply of an address; `private`: private addresses were allowed when it was requested.

    Raises:
        FeatureError: the cache cannot be written.
    """
    facts = {
        "url": _LOGIN.sub("", address),
        "status": reply.status,
        "detail": reply.detail,
        "private": private,
        "bytes": len(reply.body),
        "sha256": hashlib.sha256(reply.body).hexdigest(),
    }
    write_whole(_place(cache, key_of(address)), json.dumps(facts).encode() + b"\n", reply.body)


def forget(cache: Path, statuses: Collection[str], judge: Callable[[bytes], str] | None) -> int:
    """Remove the replies with one of these statuses, so that their addresses are requested again; return their number.

    `judge` returns the status of a reply's body; None: replies with a body are kept.

    Raises:
        FeatureError: the cache cannot be written.
    """
    found = []
    for path in cache.glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64):
        try:
            with path.open("rb") as file:
                facts = json.loads(file.readline())
                status = judge(file.read()) if judge and facts["status"] == "ok" else facts["status"]
                if status in statuses:
                    found.append(path)
        except (OSError, ValueError, TypeError, KeyError):
            pass  # damaged: it is requested again anyway
    if found:
        counts = times_forgotten(cache)
        # The counts are written first: if the process dies in between, too much is stale, never too little.
        counts |= {path.name: counts.get(path.name, 0) + 1 for path in found}
        write_whole(cache / _FORGOTTEN, json.dumps(counts, sort_keys=True, indent=0).encode())
        for path in found:
            path.unlink(missing_ok=True)
    return len(found)


def times_forgotten(cache: Path) -> dict[str, int]:
    """How often each address was forgotten, by :func:`key_of`; addresses that never were are left out."""
    try:
        counts = json.loads((cache / _FORGOTTEN).read_bytes())
        return {str(key): int(count) for key, count in counts.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file so that it is complete or missing, whenever the process ends.

    Raises:
        FeatureError: the file cannot be written.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, new) as file:
            file.writelines(parts)
    except OSError as error:
        raise FeatureError(
            f"{path} cannot be written ({error.strerror or error}): make room there, or allow writing; "
            "the files fetched so far are kept, and the same command continues from there"
        ) from error


def sweep(cache: Path) -> None:
    """Remove unfinished files of processes that died."""
    for path in cache.glob("**/*.new"):
        with suppress(OSError):  # another process may have finished it
            if time.time() - path.stat().st_mtime > _LITTER_AGE:
                path.unlink()


def _place(cache: Path, key: str) -> Path:
    return cache / key[:2] / key
