"""The terms of a store in a bucket, which hold for everybody who uses it: the object STORE. It is written once."""

import json
import uuid
from typing import Annotated, Final

import msgspec

from warehouse.artifacts.contract import DAY
from warehouse.artifacts.errors import StoreError
from warehouse.artifacts.objects.client import Client
from warehouse.artifacts.objects.layout import FILES, LEASES, STORE

__all__ = ["Terms", "establish", "read"]

FORMAT: Final = 1
LEASE: Final = 600
"""Seconds that a lease is good for once it was renewed."""
_SHORTEST: Final = 60
"""The shortest period in seconds: servers give times in whole seconds, and their clocks differ a little."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of STORE."""

    format: int
    id: str
    """Tells two stores apart."""
    grace: Annotated[int, msgspec.Meta(ge=1)]
    """Seconds from the first look of a collection, which marks a version, to the one that may remove it."""
    lease: Annotated[int, msgspec.Meta(ge=1)]
    """Seconds that a lease is good for."""


def read(client: Client) -> Terms | None:
    """The terms of a store; None if there is no store yet.

    Raises:
        StoreError: a newer mmm4rec has made it, or STORE cannot be read.
    """
    found = client.read(STORE)
    return _parse(client, found[0]) if found else None


def establish(client: Client, grace: int = DAY, lease: int = LEASE) -> Terms:
    """The terms of a store, which is made if there is none. An existing store keeps its own.

    Raises:
        StoreError: as `read`; or the grace period is shorter than a lease is good for, or one of the two than a minute;
            or there are artifacts without STORE.
    """
    terms = read(client)
    if terms is None:
        # STORE is written before anything else. It is read once more, because somebody may just have made the store.
        if {FILES, LEASES} & {*client.folders()} and read(client) is None:
            raise StoreError(
                f"{client.url} has artifacts, but the object {STORE} is missing: a person or a lifecycle rule of the "
                "bucket has deleted it. Switch that rule off, look what else is missing, and put the object back, as a "
                "backup or an older version has it; or choose another prefix"
            )
        if min(grace, lease) < _SHORTEST:
            raise StoreError(f"a period of {min(grace, lease)} seconds is too short: {_SHORTEST} at least")
        terms = Terms(format=FORMAT, id=uuid.uuid4().hex, grace=grace, lease=lease)
        data = json.dumps(msgspec.structs.asdict(terms), sort_keys=True).encode()
        _parse(client, data)
        if client.create(STORE, data) is None:  # somebody else has just made it
            return establish(client, grace, lease)
    return terms


def _parse(client: Client, data: bytes) -> Terms:
    where = f"{client.url}/{STORE}"
    try:
        plain = json.loads(data)
        written = plain.get("format") if isinstance(plain, dict) else None
        if isinstance(written, int) and written > FORMAT:
            raise StoreError(
                f"{where} has the format {written}, and this mmm4rec knows {FORMAT}: a newer one has made it; "
                "update this one"
            )
        terms = msgspec.convert(plain, Terms)
    except (ValueError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{where} describes no store ({error}): correct the address, or remove that object") from error
    if terms.grace < terms.lease:
        raise StoreError(
            f"a grace period of {terms.grace} seconds is shorter than a lease ({terms.lease}): what a process holds "
            "could be removed; choose a longer one"
        )
    return terms
