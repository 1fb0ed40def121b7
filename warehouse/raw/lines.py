"""Reads raw files, plain or gzip, in blocks of whole lines and in bounded memory; and writes the quarantine.

The reader of each format (`warehouse.raw.formats`) defines what a line means.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Self, TypeVar, cast

import numpy as np
import pyarrow as pa
from isal import igzip, igzip_lib

from warehouse.artifacts.files import regular
from warehouse.artifacts.progress import Progress
from warehouse.errors import DataError
from warehouse.parquet import ParquetSink

__all__ = ["Block", "Quarantine", "blocks"]

_BLOCK_BYTES: Final = 1 << 20
_UTF8_BOM: Final = b"\xef\xbb\xbf"

T = TypeVar("T")

Causes = Callable[[Sequence[bytes]], Iterable[str]]


class Block(NamedTuple):
    """Some whole lines of a file. `first_line` is the number of the first one, counted from 1; `data` is their bytes.

    In `data`, a line feed ends every line; only the last line of the file may lack it. The file itself may also end its
    lines with a carriage return and a line feed, or with a carriage return alone: `blocks` makes line feeds of both.
    """

    first_line: int
    data: bytes


class _Chunk(NamedTuple):
    """Some bytes of the text, how many bytes of the raw file were read up to its end, and the size of the raw file."""

    data: bytes
    done: int
    total: int


def blocks(source: Path, longest_line: int, progress: Progress | None = None) -> Iterator[Block]:
    """The lines of a file, in blocks of about 1 MiB. Gzip is recognised by its first bytes, not by the file's name.

    A line of more than `longest_line` bytes is cut, but keeps at least its first `longest_line` + 1 bytes. So memory is
    bounded, and the reader still sees that the line is too long.

    The next block is read and decompressed in a thread while the caller works on this one.

    Raises:
        DataError: the file is missing, empty, not a regular file, or its gzip stream is cut off or damaged.
    """
    line = 1
    for data, done, total in _ahead(_cut_at_lines(_with_line_feeds(_chunks(source)), longest_line)):
        if line == 1:
            data = data.removeprefix(_UTF8_BOM)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        yield Block(line, data)
        line += int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))) + (not data.endswith(b"\n"))
        if progress:
            progress(done, total)
    if line == 1:
        raise DataError(f"{source} is empty; download it again")


def _chunks(source: Path) -> Iterator[_Chunk]:
    try:
        file = regular(source).open("rb")
    except OSError as error:
        raise DataError(
            f"{source} cannot be opened ({error.strerror}): put the raw file there or correct its path"
        ) from error
    with file:
        total = source.stat().st_size
        magic = file.read(2)
        file.seek(0)
        gzipped = magic == b"\x1f\x8b"
        stream = cast(IO[bytes], igzip.IGzipFile(fileobj=file)) if gzipped else file  # type: ignore[no-untyped-call]
        try:
            while total and (data := stream.read(_BLOCK_BYTES)):
                yield _Chunk(data, file.tell(), total)
        except (EOFError, gzip.BadGzipFile, igzip_lib.error) as error:  # type: ignore[misc]  # the stub's fault
            if _has_more_behind(source):
                raise DataError(
                    f"{source} has bytes after the end of its gzip stream that are not gzip: it is damaged, or "
                    "something was added to it; download it again, or extract the part before them with `gzip -dc`"
                ) from error
            raise DataError(
                f"{source} is cut or damaged: its gzip stream breaks off near byte {file.tell():,} "
                f"of {total:,} ({error}); download it again"
            ) from error


def _has_more_behind(source: Path) -> bool:
    """Whether a gzip file holds complete gzip streams that are followed by other bytes.

    Python's own reader distinguishes this from a stream that is cut off, however few bytes follow.
    """
    with suppress(EOFError, zlib.error), gzip.open(source) as stream:
        try:
            while stream.read(_BLOCK_BYTES):
                pass
        except gzip.BadGzipFile as error:
            return str(error).startswith("Not a gzipped file")
    return False


def _with_line_feeds(chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
    """The same chunks; if carriage returns alone end the lines, as on old Macintoshes, they become line feeds."""
    alone = None
    for chunk in chunks:
        if alone is None:  # if lines end with \r\n, there is a line feed between any two carriage returns
            alone = chunk.data.count(b"\r") > 1 and b"\n" not in chunk.data
        yield chunk._replace(data=chunk.data.replace(b"\r", b"\n")) if alone else chunk


def _cut_at_lines(chunks: Iterator[_Chunk], longest_line: int) -> Iterator[_Chunk]:
    rest, done, total = b"", 0, 0
    kept = longest_line + 1 + len(b"\r") + len(_UTF8_BOM)  # `blocks` may still remove these two
    for chunk, done, total in chunks:
        if len(rest) >= kept:  # an unfinished line that is already too long: skip to its end
            chunk = chunk[chunk.find(b"\n") :] if b"\n" in chunk else b""
        end = chunk.rfind(b"\n") + 1
        if end:
            yield _Chunk(b"".join((rest, memoryview(chunk)[:end])), done, total)
            rest = chunk[end : end + kept]
        else:
            rest = (rest + chunk)[:kept]
    if rest:
        yield _Chunk(rest, done, total)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the caller uses the current one."""
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class Quarantine:
    """Collects the lines of a raw file that could not be read. A context manager that writes a Parquet file.

    Args:
        path: the Parquet file.
        schema: its columns.
        source: the raw file.
        kind: what each of its lines should be, in one word.
        layout: what a file of this kind looks like, for messages.
        causes: what is likely wrong with a file whose first unreadable lines are these, for messages.
    """

    _FLUSH: Final = 8192
    _RAW_CHARACTERS: Final = 500
    _ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
    _ALWAYS: Final = 100_000
    """Up to this many lines are set aside, however few lines could be read."""
    _MOST: Final = 0.9
    """Above this share of unreadable lines a file is refused as another kind of file; it would also take long, because
    a line that is set aside costs a hundred times as much as a line that is read."""

    _FIRST: Final = 50
    """Lines that `causes` gets, each cut to `_FIRST_BYTES`."""
    _FIRST_BYTES: Final = 64 << 10

    def __init__(
        self, path: Path, schema: pa.Schema, source: Path, kind: str, layout: str, causes: Causes = lambda lines: ()
    ) -> None:
        self.total = 0
        """Lines set aside so far."""
        self.reasons: dict[str, int] = {}
        self._source, self._kind, self._layout, self._causes = source, kind, layout, causes
        self._first: list[bytes] = []
        self._rows: list[tuple[int, str, str]] = []
        self._sink = ParquetSink(path, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._sink.__exit__(kind, error, trace)

    def add(self, line: int, reason: str, raw: bytes) -> None:
        """Set a line aside. Its first bytes are kept as text, with unprintable ones escaped. Add lines in file order.

        Raises:
            DataError: hardly any line so far could be read.
        """
        text = raw[: 4 * self._RAW_CHARACTERS].decode("utf-8", "backslashreplace").translate(self._ESCAPES)
        self._rows.append((line, reason, text[: self._RAW_CHARACTERS]))
        if len(self._first) < self._FIRST:
            self._first.append(raw[: self._FIRST_BYTES])
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.total += 1
        if self.total > self._ALWAYS and self.total > self._MOST * line:
            raise self.refusal(f"only {line - self.total:,} of its first {line:,} lines could be read as")
        if len(self._rows) >= self._FLUSH:
            self._flush()

    def refusal(self, finding: str) -> DataError:
        """The error for a file that is not of its kind."""
        counts = "; ".join(f"{n:,} line{'s' * (n != 1)}: {reason}" for reason, n in sorted(self.reasons.items()))
        causes = [*self._causes(self._first)]
        likely = f"Likely cause{'s' * (len(causes) > 1)}: {'; '.join(causes)}. " if causes else ""
        layout = self._layout[0].upper() + self._layout[1:]
        return DataError(
            f"{self._source}: {finding} a {self._kind} ({counts}). {likely}{layout}: give a file of this form"
        )

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[], [], []]
        self._sink.write(
            pa.RecordBatch.from_arrays(list(map(pa.array, columns, self._sink.schema.types)), schema=self._sink.schema)
        )
        self._rows.clear()
