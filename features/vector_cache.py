"""The vector cache: what an encoder has made of a content, kept by content and encoder so that it is made once.

    <root>/<text|image>-<first 16 hex digits of the identity's sha256>/
        encoder.json            the identity, for people and for clean-up
        probe.json              what this encoder made of the probes (:mod:`features.encoders.probe`), once
        <sha256>.parquet        a part: content_sha256 string, vector fixed-size list of float32

A part is named by the sha256 of its bytes, written elsewhere in the folder, flushed, and renamed into place, so a part
is whole or not there, whoever is killed; any number of processes add parts at once. All that lies here can be made
again: what cannot be trusted is thrown away, and counts as never made.
"""

import json
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.durable import flush_folder, replacing
from features.encoders import EncoderIdentity, Vectors
from features.encoders.probe import Probe

_log = logging.getLogger("mmm4rec")

_PROBE = "probe.json"

_PART = "[0-9a-f]" * 64 + ".parquet"
"""No other file is read here, or found damaged and removed."""
_UNFINISHED = ".part"
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished file belongs to a process that died."""


class VectorCache:
    """The vectors of one modality by one encoder; the folder need not be there.

    Args:
        root: folder of all caches.
        modality: kind of content.
        identity: the encoder; another identity is another cache.
    """

    def __init__(self, root: Path, modality: Literal["text", "image"], identity: EncoderIdentity) -> None:
        self._identity = json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n"
        self.folder = root / f"{modality}-{sha256(self._identity.encode()).hexdigest()[:16]}"
        self.width = identity.width
        self._made = False
        self.damaged = 0
        """Parts found damaged so far."""

    def look_up(self, contents: Sequence[str | None]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors [n, width], zeros where there is none, and the mask [n] of those found; None is never found.

        Every part that a vector is taken from is checked whole. Of several vectors of one content, that in the part
        whose name comes first is taken.
        """
        vectors = np.zeros((len(contents), self.width), np.float32)
        if not contents:
            return vectors, np.zeros(0, np.bool_)
        wanted = pa.array(contents, pa.string())
        listed = {path: held for path in sorted(self.folder.glob(_PART)) if (held := self._contents(path)) is not None}
        while True:
            paths = list(listed)
            ends = np.cumsum([0, *(len(held) for held in listed.values())])
            everything = pa.chunked_array(list(listed.values()), pa.string()).combine_chunks()
            row = pc.index_in(wanted, everything).fill_null(-1).to_numpy()
            part = np.searchsorted(ends, row, side="right") - 1  # -1 where row is
            for number in np.unique(part[row >= 0]):
                found = self._read(paths[number], listed[paths[number]])
                if found is None:
                    del listed[paths[number]]
                else:
                    here = part == number
                    vectors[here] = found[row[here] - ends[number]]
            if len(listed) == len(paths):
                return vectors, row >= 0
            vectors[:] = 0  # and again without the damaged parts: what they held may lie in others

    def add(self, contents: Sequence[str], vectors: Vectors) -> None:
        """Keep the vectors [n, width] of n contents; once this returns, a loss of power does not lose them."""
        table = pa.table(
            {
                "content_sha256": pa.array(contents, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), self.width),
            }
        )
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
        self._make_folder()
        self._write(f"{sha256(buffer.getbuffer()).hexdigest()}.parquet", buffer.getvalue())

    def probe(self) -> Probe | None:
        """The probe vectors kept here; None where there are none, or none that can be read."""
        try:
            kept = json.loads((self.folder / _PROBE).read_text("utf-8"))
            return {str(name): [float(number) for number in vector] for name, vector in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def keep_probe(self, probe: Probe) -> None:
        """Keep the probe vectors of this encoder."""
        self._make_folder()
        self._write(_PROBE, (json.dumps(probe, indent=1, sort_keys=True) + "\n").encode())

    def _make_folder(self) -> None:
        """Make the folder, say whose it is, and remove what died there."""
        if self._made:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(FileNotFoundError):  # finished, or removed by another process
                if path.stat().st_mtime < time.time() - _ABANDONED:
                    path.unlink()
        self._write("encoder.json", self._identity.encode())
        self._made = True

    def _write(self, name: str, data: bytes) -> None:
        unfinished = self.folder / f"{secrets.token_hex(16)}{_UNFINISHED}"
        with replacing(self.folder / name, unfinished) as file:
            file.write(data)
        flush_folder(self.folder)

    def _contents(self, path: Path) -> pa.Array | None:
        """The contents that a part claims to hold: a hint, since only :meth:`_read` checks it."""
        try:
            column = pq.read_table(path, columns=["content_sha256"])["content_sha256"].combine_chunks()
        except FileNotFoundError:  # another process has found it damaged
            return None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk's fault, not the file's
            column = None
        if column is not None and column.type == pa.string():
            return column
        self._throw_away(path)
        return None

    def _read(self, path: Path, held: pa.Array) -> Vectors | None:
        """The vectors [n, width] of a part, in the order of its contents."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if sha256(data).hexdigest() == path.stem:
            table = pq.read_table(pa.BufferReader(data))
            if table["content_sha256"].combine_chunks().equals(held):
                flat: NDArray[np.float32] = table["vector"].combine_chunks().flatten().to_numpy()
                return flat.reshape(-1, self.width)
        self._throw_away(path)
        return None

    def _throw_away(self, path: Path) -> None:
        """Count a damaged part and remove it; whoever needs its contents makes them again."""
        self.damaged += 1
        _log.warning("%s is damaged; what it held will be encoded again", path)
        path.unlink(missing_ok=True)
