"""The results of requests to http(s) addresses, stored in a folder that every version of the pictures shares.

    <cache>/<2 hex>/<sha256 of the address>   a line of JSON: url, status, detail, private, bytes, sha256; then the body
    <cache>/forgotten.json                    how often an address was forgotten, by the sha256 of the address

Failures are stored too. Whether a body is a good picture is not stored: features.pictures decides it by its current
rules. A file gets its name only when it is complete, whenever the process ends. A damaged file counts as missing.
Machines with a store in a bucket share them (`sharing`).
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.errors import FeatureError
from warehouse.artifacts.durable import replacing

FORGOTTEN: Final = "forgotten.json"
STATUSES: Final = frozenset({"ok", "unreachable", "timeout", "not_found", "too_large", "refused"})
"""The statuses of replies."""
_KEY: Final = re.compile("[0-9a-f]{64}")
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
        return parse(place(cache, key_of(address)).read_bytes(), private)
    except OSError:
        return None


def parse(data: bytes, private: bool = False, address: str | None = None) -> Reply | None:
    """The reply in the bytes of a file, as :func:`recall` says; with `address`, only if it is the reply of that one."""
    line, _, body = data.partition(b"\n")
    try:
        facts = json.loads(line)
        reply = Reply(facts["status"], facts["detail"], body)
        whole = hashlib.sha256(body).hexdigest() == facts["sha256"]
        outdated = reply.status == "refused" and private and not facts["private"]
        stranger = address is not None and (facts["url"] != _shown(address) or reply.status not in STATUSES)
        return reply if whole and not outdated and not stranger else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def described(address: str, reply: Reply, private: bool = False) -> tuple[bytes, bytes]:
    """The file of a reply: its first line, and the body. `private`: private addresses were allowed when it was
    requested."""
    facts = {
        "url": _shown(address),
        "status": reply.status,
        "detail": reply.detail,
        "private": private,
        "bytes": len(reply.body),
        "sha256": hashlib.sha256(reply.body).hexdigest(),
    }
    return json.dumps(facts).encode() + b"\n", reply.body


def find(cache: Path, statuses: Collection[str], judge: Callable[[bytes], str] | None) -> list[str]:
    """The names of the replies with one of these statuses, by :func:`key_of`.

    `judge` returns the status of a reply's body; None: replies with a body are left out.
    """
    found = []
    for path in cache.glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64):
        try:
            with path.open("rb") as file:
                facts = json.loads(file.readline())
                status = judge(file.read()) if judge and facts["status"] == "ok" else facts["status"]
                if status in statuses:
                    found.append(path.name)
        except (OSError, ValueError, TypeError, KeyError):
            pass  # damaged: it is requested again anyway
    return found


def forget(cache: Path, counts: Mapping[str, int]) -> None:
    """Let these addresses have been forgotten so often, and remove their replies, so that they are requested again.

    Raises:
        FeatureError: the cache cannot be written.
    """
    # The counts are written first: if the process dies in between, too much is stale, never too little.
    write_whole(cache / FORGOTTEN, count_text({**times_forgotten(cache), **counts}))
    for key in counts:
        place(cache, key).unlink(missing_ok=True)


def times_forgotten(cache: Path) -> dict[str, int]:
    """How often each address was forgotten, by :func:`key_of`; addresses that never were are left out."""
    try:
        return parse_counts((cache / FORGOTTEN).read_bytes())
    except OSError:
        return {}


def parse_counts(data: bytes) -> dict[str, int]:
    """How often each address was forgotten, by the bytes of a file; what cannot be read says nothing."""
    try:
        counts = {str(key): int(count) for key, count in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {key: count for key, count in counts.items() if _KEY.fullmatch(key) and count > 0}


def count_text(counts: Mapping[str, int]) -> bytes:
    """The file that says how often each address was forgotten."""
    return json.dumps(counts, sort_keys=True, indent=0).encode()


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


def place(cache: Path, key: str) -> Path:
    """Where the reply of an address is, by :func:`key_of`."""
    return cache / key[:2] / key


def _shown(address: str) -> str:
    return _LOGIN.sub("", address)
