"""Whether a version may be removed: one object a version, `doomed=<version>`, changed by compare-and-swap alone.

    doomed    a collection has found that nobody needs the version
    kept      somebody uses it after all, or it has been removed and may be made again
    removing  a later collection removes it: from here on it counts as absent

Who uses a version that is there first names it in a lease, and then calls `keep`. A collection looks at this object,
then at the leases, then at CURRENT, and swaps the state that it has seen. So one of the two fails, and never do both go
on. The object stays when the version is gone: a swap can be told from a later one, a removal could not.
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
"""What is in place of the manifest of a version that was removed."""


@dataclass(frozen=True)
class Doom:
    """A state of the object."""

    state: State
    tag: Tag | None
    """None where there is no such object."""
    manifest: Tag | None = None
    """Of what is removed: the state of the manifest that may be replaced by nothing."""
    since: datetime | None = None
    """By the server's clock."""


def look(client: Client, version: Version, since: datetime | None = None) -> Doom:
    """The state of a version; `since` is what a listing told."""
    found = client.read(layout.doomed(version))
    if found is None:
        return Doom("kept", None)
    try:
        plain: Any = json.loads(found[0])
        return Doom(plain["state"], found[1], plain.get("manifest"), since)
    except (ValueError, KeyError, TypeError):
        return Doom("kept", found[1])  # none of ours: it dooms nothing


def keep(client: Client, version: Version) -> bool:
    """See that a version, which a lease of this process names, is not removed; False if it has been."""
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
    """Let a doomed version be kept; False if its state is another by now."""
    return found.tag is None or _swap(client, version, found.tag, "kept") is not None


def condemn(client: Client, version: Version, found: Doom, manifest: Tag | None = None) -> Doom | None:
    """Doom a version that is kept, or remove one that is doomed, given the state of its manifest; None: it changed."""
    state: State = "removing" if manifest else "doomed"
    tag = _swap(client, version, found.tag, state, manifest)
    return Doom(state, tag, manifest) if tag else None


def finish(client: Client, version: Version, found: Doom) -> None:
    """Remove what is being removed. Any number of processes may do it at once, and however late."""
    if found.manifest and found.tag:
        client.replace(layout.versioned(version), GONE, found.manifest)
        client.remove(*(layout.mark(version, name) for name in ("damaged", "refused")))
        _swap(client, version, found.tag, "kept")


def _swap(client: Client, version: Version, tag: Tag | None, state: State, manifest: Tag | None = None) -> Tag | None:
    said = {"state": state, "nonce": uuid.uuid4().hex} | ({"manifest": manifest} if manifest else {})
    data = json.dumps(said, sort_keys=True).encode()
    key = layout.doomed(version)
    return client.create(key, data) if tag is None else client.replace(key, data, tag)
