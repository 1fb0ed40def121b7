"""The parts of the vector cache that machines share, and their checks.

Whoever can write to the bucket could write anything there. So a part counts only if it is one that :class:`VectorCache`
could have added: named by the sha256 of its bytes, plain columns of the right types, and vectors that an encoder makes.
Any other object is left out with a warning.
"""

import json
import logging
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.encoders.probe import Probe
from warehouse.artifacts.kept import Shared
from warehouse.artifacts.threads import map_in_order

__all__ = ["RUNS", "SharedParts", "parse_probe", "probe_text"]

_log = logging.getLogger("mmm4rec")

RUNS: Final = b"runs"
"""Key in a part's metadata: [[name of an original part, its number of rows here], ...] as JSON. A part that was never
compacted lacks it."""
_PROBE: Final = "probe.json"
_NAME: Final = re.compile(r"([0-9a-f]{64})\.parquet")
_MOST: Final = 128 << 20
"""Bytes of a part; larger ones are not shared. A chunk of 1024 vectors has some MiB."""
_MOST_TOLD: Final = 8 << 20
"""Bytes of a probe or of a description."""
_AT_ONCE: Final = 8
"""Parts that are downloaded at the same time."""


class SharedParts:
    """The shared parts of one encoder, whose vectors are `width` wide."""

    def __init__(self, shared: Shared, width: int) -> None:
        self._shared, self._width = shared, width
        self._bad: set[str] = set()

    def take(self, held: Collection[str], write: Callable[[str, bytes], object]) -> int:
        """Give every good part whose name is not `held` to `write`, with its file name; return how many these are."""
        found = ((match[1], name) for name in self._shared.names() if (match := _NAME.fullmatch(name)))
        wanted = sorted(name for stem, name in found if stem not in held and name not in self._bad)

        def read(name: str) -> tuple[str, bytes | None]:
            data = self._shared.read(name, _MOST)
            flaw = flaw_of(data, name, self._width) if data is not None else "it is too large, or was removed"
            if flaw:
                self._bad.add(name)
                _log.warning("the shared vectors %s are not used: %s", name, flaw)
            return name, None if flaw else data

        taken = 0
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, data in map_in_order(pool, read, wanted, _AT_ONCE):
                if data is not None:
                    write(name, data)
                    taken += 1
        return taken

    def add(self, name: str, data: bytes) -> None:
        """Share a part."""
        if len(data) <= _MOST:
            self._shared.add(name, data, _MOST, lambda there: there == data)

    def describe(self, identity: bytes) -> None:
        """Say which encoder's parts these are, for people."""
        self._shared.add("encoder.json", identity, _MOST_TOLD, lambda there: there == identity)

    def probe(self) -> Probe | None:
        """The shared probe vectors; None if there are none that can be read."""
        data = self._shared.read(_PROBE, _MOST_TOLD)
        return parse_probe(data) if data is not None and _is_probe(data) else None

    def add_probe(self, probe: Probe) -> None:
        """Share the probe vectors, unless there are some."""
        self._shared.add(_PROBE, probe_text(probe), _MOST_TOLD, _is_probe)


def flaw_of(data: bytes, name: str, width: int) -> str | None:
    """Why a file of this name is no part of vectors of this width; None if it is one."""
    if sha256(data).hexdigest() != name.partition(".")[0]:
        return "its bytes have another sha256"
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        # Before anything is unpacked, which could become any number of bytes.
        if file.metadata.num_rows * 4 * width > len(data) or not _is_plain(file.metadata):
            return "it would unpack to more than it is"
        table = file.read()
        if table.schema.names != ["content_sha256", "vector"] or RUNS in (table.schema.metadata or {}):
            return "its columns are others"
        contents, vectors = table["content_sha256"], table["vector"]
        if contents.type != pa.string() or not _is_of_vectors(vectors.type, width):
            return f"its columns have the types {contents.type} and {vectors.type}"
        if contents.null_count or vectors.null_count or not len(contents):
            return "it has rows without a vector"
        if not pc.all(pc.match_substring_regex(contents, "^[0-9a-f]{64}$")).as_py():
            return "not all of its contents are sha256"
        flat = vectors.combine_chunks().flatten()
        numbers = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        return f"it cannot be read ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
    if not np.isfinite(numbers).all() or not numbers.any(axis=1).all():
        return "it has vectors that are not finite or are zero"
    return None


def _is_plain(metadata: pq.FileMetaData) -> bool:
    """Whether no column is compressed or encoded."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return all(each.compression == "UNCOMPRESSED" and {*each.encodings} <= {"PLAIN", "RLE"} for each in columns)


def _is_of_vectors(kind: pa.DataType, width: int) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size == width and kind.value_type == pa.float32())


def parse_probe(data: bytes) -> Probe:
    """The probe vectors in a file.

    Raises:
        ValueError, TypeError, AttributeError: these are none.
    """
    return {str(name): [float(number) for number in vector] for name, vector in json.loads(data).items()}


def probe_text(probe: Probe) -> bytes:
    """Probe vectors as a file."""
    return (json.dumps(probe, indent=1, sort_keys=True) + "\n").encode()


def _is_probe(data: bytes) -> bool:
    try:
        return bool(parse_probe(data))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
