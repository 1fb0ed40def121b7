"""Whether a version may be removed: for each version one object, `doomed=<version>`, with one of three states.

    doomed    a collection has found that nobody needs the version
    kept      somebody uses it again, or it has been removed and may be made again
    removing  a collection removes it; from now on it counts as absent

The object is only changed by compare-and-swap: a write that fails if somebody else has changed the object since it was
read. Who wants to use an existing version first names it in a lease, and then calls `keep`. A collection reads this
object, then the leases, then CURRENT, and then swaps the state that it has read. So only one of the two succeeds. The
object stays when the version is gone, because a late process can notice a changed object, but not a deleted one that
was written again.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from warehouse.artifacts.artifact import Version
from warehouse.artifacts.objects import layout
from warehouse.artifacts.objects.client import Client, Tag

__all__ = ["GONE", "Doom", "condemn", "finish", "keep", "look", "spare"]

State = Literal["doomed", "kept", "removing"]
GONE: Final = b""
"""The contents of the manifest of a removed version."""


@dataclass(frozen=True)
class Doom:
    """The object as it was read."""

    state: State
    tag: Tag | None
    """None where there is no such object."""
    manifest: Tag | None = None
    """Only while removing: the state of the manifest that may be replaced by `GONE`."""
    since: datetime | None = None
    """By the server's clock."""


def look(client: Client, version: Version, since: datetime | None = None) -> Doom:
    """The state of a version. `since` is the time that a listing gave for the object."""
    found = client.read(layout.doomed(version))
    if found is None:
        return Doom("kept", None)
    try:
        plain: Any = json.loads(found[0])
        return Doom(plain["state"], found[1], plain.get("manifest"), since)
    except (ValueError, KeyError, TypeError):
        return Doom("kept", found[1])  # it is not ours, so it dooms nothing


def keep(client: Client, version: Version) -> bool:
    """Keep a version from being removed; False if it has been removed. A lease of this process must name it."""
    while True:
        found = look(client, version)
        if found.state == "kept":
            return True
        if found.state == "removing":
            finish(client, version, found)
            return False
        if spare(client, version, found):
            return True


def spare(client: Client, version: Version, found: Doom) -> bool:
    """Change a doomed version to kept; False if somebody else has changed its state."""
    return found.tag is None or _swap(client, version, found.tag, "kept") is not None


def condemn(client: Client, version: Version, found: Doom, manifest: Tag | None = None) -> Doom | None:
    """Change a kept version to doomed or, if the state of its manifest is given, a doomed one to removing.

    None: somebody else has changed the state.
    """
    state: State = "removing" if manifest else "doomed"
    tag = _swap(client, version, found.tag, state, manifest)
    return Doom(state, tag, manifest) if tag else None


def finish(client: Client, version: Version, found: Doom) -> None:
    """Finish a removal. Any number of processes may do this at once and at any later time."""
    if found.manifest and found.tag:
        client.replace(layout.versioned(version), GONE, found.manifest)
        client.remove(*(layout.mark(version, name) for name in ("damaged", "refused")))
        _swap(client, version, found.tag, "kept")


def _swap(client: Client, version: Version, tag: Tag | None, state: State, manifest: Tag | None = None) -> Tag | None:
    said = {"state": state, "nonce": uuid.uuid4().hex} | ({"manifest": manifest} if manifest else {})
    data = json.dumps(said, sort_keys=True).encode()
    key = layout.doomed(version)
    return client.create(key, data) if tag is None else client.replace(key, data, tag)
