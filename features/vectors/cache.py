"""The vector cache: stores the vector of each content by content and encoder, so that it is computed only once.

    <root>/<text|image>-<first 16 hex digits of the identity's sha256>/
        encoder.json            the identity, for people and for clean-up
        probe.json              the first probe vectors of this encoder (:mod:`features.encoders.probe`)
        <sha256>.parquet        a part: content_sha256 string, vector fixed-size list of float32

A part is named by the sha256 of its bytes. It is written to another file of the folder, flushed, and renamed. So a part
is either complete or missing, even if a process is killed, and any number of processes can add parts at the same time.
Everything in the cache can be computed again, so a damaged file is removed and counts as missing.

Every call adds a small part. :meth:`VectorCache.compact` writes many small parts into a large one, and then removes
them. In the large part, the rows of each original part form a run that has the original part's name (in the file's
metadata). If one content has several vectors, the same vector is therefore found before and after.

Machines with a store in a bucket share the cache (:class:`warehouse.artifacts.kept.Kept`): each part that one adds is
also an object there, of the same name and bytes. A look-up that does not find all contents here takes the parts that
are there and not here, and checks each before it counts. Parts in the bucket are not compacted; a compaction here does
not make them unknown, because it keeps their names.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.encoders import EncoderIdentity, Vectors
from features.encoders.probe import Probe
from features.vectors.shared import RUNS, SharedParts, parse_probe, probe_text
from warehouse.artifacts.durable import flush, replacing
from warehouse.artifacts.kept import Kept

_log = logging.getLogger("mmm4rec")

_PROBE = "probe.json"

_PART = "[0-9a-f]" * 64 + ".parquet"
"""The names of parts. No other file is read as a part, or removed as damaged."""
_UNFINISHED = ".part"
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished file counts as left by a process that died."""
_LARGE = 64 * 2**20
"""Approximate bytes of a compacted part; a part of at least half this size is not compacted again."""
_MANY = 64
"""The number of small parts from which a compaction is worth its cost."""


@dataclass(frozen=True)
class _Run:
    """Contents that were added together, and where they are now."""

    name: str
    path: Path
    start: int
    """Row of the run's first content in its part."""
    contents: pa.Array


class VectorCache:
    """The vectors of one modality by one encoder.

    Args:
        root: folder of all caches, which may be missing, with what machines share of it.
        modality: kind of content.
        identity: the encoder; each identity has its own cache.
    """

    def __init__(self, root: Path | Kept, modality: Literal["text", "image"], identity: EncoderIdentity) -> None:
        self._identity = json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n"
        kept, name = Kept.of(root), f"{modality}-{sha256(self._identity.encode()).hexdigest()[:16]}"
        self.folder = kept.folder / name
        self._shared = SharedParts(kept.shared.below(name), identity.width) if kept.shared else None
        self.width = identity.width
        self._made = False
        self.damaged = 0
        """Parts found damaged so far."""

    def look_up(self, contents: Sequence[str | None]) -> tuple[Vectors, NDArray[np.bool_]]:
        """Vectors [n, width], zeros where none is found, and the mask [n] of those found; None is never found.

        Every part that a vector comes from is checked completely. If a content has several vectors, the vector of the
        original part whose name sorts first is used.
        """
        vectors, known = self._look_up(contents)
        if self._shared and known.sum() + list(contents).count(None) < len(contents) and self._take(self._shared):
            return self._look_up(contents)
        return vectors, known

    def _take(self, shared: SharedParts) -> bool:
        """Take the parts of other machines that are not here; say whether there are any."""
        self._make_folder()
        held = {run.name for runs in self._list({}).values() for run in runs}
        return shared.take(held, self._write) > 0

    def _look_up(self, contents: Sequence[str | None]) -> tuple[Vectors, NDArray[np.bool_]]:
        vectors = np.zeros((len(contents), self.width), np.float32)
        if not contents:
            return vectors, np.zeros(0, np.bool_)
        wanted = pa.array(contents, pa.string())
        listed: dict[Path, list[_Run]] = {}
        while True:
            self._list(listed)
            runs = _in_order(listed)
            ends = np.cumsum([0, *(len(run.contents) for run in runs)])
            starts = np.array([run.start for run in runs], np.int64)
            everything = pa.chunked_array([run.contents for run in runs], pa.string()).combine_chunks()
            row = pc.index_in(wanted, everything).fill_null(-1).to_numpy()
            known = row >= 0
            run_of = np.searchsorted(ends, row, side="right") - 1
            found = np.flatnonzero(known)
            gone = False
            for path, here in _by_part(runs, run_of[found]):
                rows = found[here]
                read = self._read(path, listed[path])
                if read is None:
                    del listed[path]
                    gone = True
                elif not gone:
                    vectors[rows] = read[row[rows] - ends[run_of[rows]] + starts[run_of[rows]]]
            if not gone:
                return vectors, known
            vectors[:] = 0  # repeat without these parts: others may have their contents, for example after a compaction

    def compact(self) -> None:
        """Write small parts into large ones if there are many.

        Other processes may read, write and compact at the same time, and this one may be killed: a part is removed only
        after all its contents are in another part on the disk. If a part cannot be written, the small ones stay.
        """
        small = {path: size for path in sorted(self.folder.glob(_PART)) if (size := _size(path)) < _LARGE // 2}
        if len(small) < _MANY:
            return
        try:
            listed = self._list({})
            elsewhere = {run.name for path, runs in listed.items() if path not in small for run in runs}
            group: list[Path] = []
            for path in small:
                if path in listed:
                    group.append(path)
                if sum(small[one] for one in group) >= _LARGE:
                    self._merge({one: listed[one] for one in group}, elsewhere)
                    group = []
            self._merge({one: listed[one] for one in group}, elsewhere)
        except OSError as error:
            _log.warning("%s: its %d small files could not be merged (%s)", self.folder, len(small), error)

    def _merge(self, parts: Mapping[Path, list[_Run]], elsewhere: set[str]) -> None:
        """Write one part for these parts, without the runs that are `elsewhere` because a compaction was killed."""
        if len(parts) < 2:
            return
        read = {path: held for path, runs in parts.items() if (held := self._read(path, runs)) is not None}
        contents: list[str] = []
        vectors: list[Vectors] = [np.empty((0, self.width), np.float32)]
        names: list[tuple[str, int]] = []
        seen: set[str] = set()
        for run in _in_order({path: parts[path] for path in read}):
            if run.name not in elsewhere:
                fresh = [row for row, content in enumerate(run.contents.to_pylist()) if content not in seen]
                contents += run.contents.take(pa.array(fresh, pa.int64())).to_pylist()
                vectors.append(read[run.path][run.start : run.start + len(run.contents)][fresh])
                names.append((run.name, len(fresh)))
                seen.update(contents[len(contents) - len(fresh) :])
        made = self._add(contents, np.concatenate(vectors), names) if contents else None
        for path in read:
            if path != made:
                path.unlink(missing_ok=True)

    def add(self, contents: Sequence[str], vectors: Vectors) -> None:
        """Store the vectors [n, width] of n contents; after this returns, even a power failure does not lose them."""
        self._add(contents, vectors)

    def _add(self, contents: Sequence[str], vectors: Vectors, runs: Sequence[tuple[str, int]] = ()) -> Path:
        table = pa.table(
            {
                "content_sha256": pa.array(contents, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), self.width),
            },
            metadata={RUNS: json.dumps(runs)} if runs else None,
        )
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
        self._make_folder()
        name = f"{sha256(buffer.getbuffer()).hexdigest()}.parquet"
        if self._shared and not runs:  # before it is here: a process that is killed in between has lost nothing
            self._shared.add(name, buffer.getvalue())
        return self._write(name, buffer.getbuffer())

    def probe(self) -> Probe | None:
        """The stored probe vectors; None if there are none, or they cannot be read. Those that machines share go first,
        so that their vectors never mix with those of another encoder."""
        shared = self._shared.probe() if self._shared else None
        if shared:
            return shared
        try:
            kept = parse_probe((self.folder / _PROBE).read_bytes())
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if self._shared:
            self._shared.add_probe(kept)
        return kept

    def keep_probe(self, probe: Probe) -> None:
        """Store the probe vectors of this encoder."""
        self._make_folder()
        if self._shared:
            self._shared.add_probe(probe)
        self._write(_PROBE, probe_text(probe))

    def _make_folder(self) -> None:
        """Make the folder, write the encoder's identity into it, and remove abandoned files."""
        if self._made:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(FileNotFoundError):  # finished, or removed by another process
                if path.stat().st_mtime < time.time() - _ABANDONED:
                    path.unlink()
        if self._shared:
            self._shared.describe(self._identity.encode())
        self._write("encoder.json", self._identity.encode())
        self._made = True

    def _write(self, name: str, data: bytes | memoryview) -> Path:
        unfinished = self.folder / f"{secrets.token_hex(16)}{_UNFINISHED}"
        with replacing(self.folder / name, unfinished) as file:
            file.write(data)
        flush(self.folder)
        return self.folder / name

    def _list(self, listed: dict[Path, list[_Run]]) -> dict[Path, list[_Run]]:
        """Add new parts to a listing, and repeat until there are none.

        This is necessary because a folder that changes while it is listed may show neither the parts that a compaction
        removes nor the part that it made from them.
        """
        while new := [path for path in sorted(self.folder.glob(_PART)) if path not in listed]:
            for path in new:
                if (runs := self._runs(path)) is not None:
                    listed[path] = runs
        return listed

    def _runs(self, path: Path) -> list[_Run] | None:
        """The contents that a part claims to hold; only :meth:`_read` checks the claim."""
        try:
            return _runs_of(path, pq.read_table(path, columns=["content_sha256"]))
        except FileNotFoundError:  # another process found it damaged, or compacted it
            return None
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # an error of the disk, not of the file
        self._throw_away(path)
        return None

    def _read(self, path: Path, runs: list[_Run]) -> Vectors | None:
        """The vectors [n, width] of a part, in the order of its contents; None if it is missing or damaged."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if sha256(data).hexdigest() == path.stem:
            table = pq.read_table(pa.BufferReader(data))
            if _runs_of(path, table) == runs:
                flat: NDArray[np.float32] = table["vector"].combine_chunks().flatten().to_numpy()
                return flat.reshape(-1, self.width)
        self._throw_away(path)
        return None

    def _throw_away(self, path: Path) -> None:
        """Count a damaged part and remove it; its contents are encoded again when they are needed."""
        self.damaged += 1
        _log.warning("%s is damaged; its contents will be encoded again", path)
        path.unlink(missing_ok=True)


@contextmanager
def adding_behind(cache: VectorCache) -> Iterator[Callable[[Sequence[str], Vectors], None]]:
    """A function like :meth:`VectorCache.add` that returns at once and waits only for the call before it.

    So the caller computes while the disk is written. When the context ends without an error, everything is stored.
    """
    writing: Future[None] | None = None

    def add(contents: Sequence[str], vectors: Vectors) -> None:
        nonlocal writing
        if writing:
            writing.result()
        writing = thread.submit(cache.add, contents, vectors)

    with ThreadPoolExecutor(1) as thread:
        yield add
        if writing:
            writing.result()


def _runs_of(path: Path, table: pa.Table) -> list[_Run]:
    """The runs of a part.

    Raises:
        ValueError, TypeError, KeyError, pa.ArrowException: the file is not a part.
    """
    contents = table["content_sha256"].combine_chunks()
    declared = json.loads((table.schema.metadata or {}).get(RUNS, json.dumps([[path.stem, len(contents)]])))
    runs, start = [], 0
    for name, rows in declared:
        runs.append(_Run(str(name), path, start, contents.slice(start, rows)))
        start += rows
    if contents.type != pa.string() or start != len(contents):
        raise ValueError("the runs do not match the contents")
    return runs


def _in_order(listed: Mapping[Path, list[_Run]]) -> list[_Run]:
    """All runs, in the order in which they are searched: if several runs have a content, the first one counts."""
    return sorted((run for runs in listed.values() for run in runs), key=lambda run: (run.name, run.path))


def _by_part(runs: list[_Run], wanted: NDArray[np.int64]) -> Iterator[tuple[Path, NDArray[np.int64]]]:
    """The parts that hold some of the runs `wanted` [n], each with the places of these runs in `wanted`."""
    paths = sorted({run.path for run in runs})
    numbers = {path: number for number, path in enumerate(paths)}
    part = np.array([numbers[run.path] for run in runs], np.int64)[wanted]
    order = np.argsort(part, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
        if len(here):
            yield paths[part[here[0]]], here


def _size(path: Path) -> float:
    """Bytes of a file; infinity if another process has removed it, so that it is not compacted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return float("inf")
