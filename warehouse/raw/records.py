"""Reads lines that hold one record each, a JSON object or, in older files, a Python literal: a plain and a fast reader.

`read_record` defines what a record is, in plain code. `decode` reads many lines at once with msgspec, which makes
Python objects of the wanted fields only. It gives a result only for lines on which the two readers cannot differ, and
leaves the other lines to the plain reader. `warehouse.raw.metadata` and `warehouse.raw.reviews` define what a field
means.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from warehouse.raw.lines import Block

__all__ = ["LONGEST_LINE", "SURROGATE", "Batch", "decode", "read_record", "usual_ids"]

SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half of a character: a Python string may contain it, UTF-8 may not."""

LONGEST_LINE: Final = 4 << 20
LONGEST_LITERAL: Final = 256 << 10
DEEPEST_LITERAL: Final = 32
DEEPEST_JSON: Final = 500
"""Well below Python's own limit, which depends on the depth of the caller."""
LONGEST_INTEGER: Final = 4300
"""Digits. Python refuses longer integers, because their conversion takes quadratic time."""

_BATCH_BYTES: Final = 1 << 20
"""Fits into a processor's cache."""
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[{(]})"))
_JSON_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LONG_INTEGER: Final = re.compile(rb"[0-9]{%d}" % (LONGEST_INTEGER + 1))

_REFUSED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """Some lines of a block: the number of the first line, their bytes, and one record per line from the fast reader.

    A record is None if only the plain reader can decide what the line is.
    """

    first_line: int
    data: bytes
    records: list[T | None]

    def lines(self) -> list[bytes]:
        """The lines, without their ends."""
        return self.data.removesuffix(b"\n").split(b"\n")


def read_record(line: bytes) -> tuple[dict[Any, Any], bool] | str:
    """One line as a record, and whether it was a Python literal; or the reason why it is not a record."""
    if len(line) > LONGEST_LINE:
        return "line is too long"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    if _openers(line) > DEEPEST_JSON and _depth(_JSON_TEXT.sub(b"", line)) > DEEPEST_JSON:
        return "nested too deeply"
    is_literal = False
    try:
        record = json.loads(text)
    except ValueError:
        record = _read_literal(line, text)
        is_literal = True
        if isinstance(record, str):
            return record
    return (record, is_literal) if isinstance(record, dict) else "not an object"


def decode(block: Block, decoder: "msgspec.json.Decoder[T]") -> Iterator[Batch[T]]:
    """The lines of a block in batches, each line with its record from `decoder`."""
    first_line, start = block.first_line, 0
    while start < len(block.data) or first_line == block.first_line:
        end = block.data.find(b"\n", start + _BATCH_BYTES) + 1 or len(block.data)
        data = block.data[start:end]
        batch = Batch(first_line, data, _decode_at_once(data, decoder) or _decode_each(data, decoder))
        yield batch
        first_line, start = first_line + len(batch.records), end


def usual_ids(texts: Sequence[str]) -> bool:
    """Whether all texts are certainly valid ids: not empty, printable ASCII, and fewer than 100 characters."""
    together = "".join(texts)
    lengths = {1, *map(len, texts)}
    return together.isascii() and together.isprintable() and min(lengths) > 0 and max(lengths) < 100


def _decode_at_once(data: bytes, decoder: "msgspec.json.Decoder[T]") -> list[T | None] | None:
    """One record per line; or None if any line might not be a record.

    msgspec is strict about JSON. But in the fields that it skips it accepts bytes that are not UTF-8 and integers of
    any length; it also accepts deeper nesting, and reads on past the end of a line. Quick checks exclude all four; they
    may also refuse lines that are good.
    """
    if len(data) > LONGEST_LINE or not _is_utf8(data):
        return None
    codes = np.frombuffer(data, np.uint8)
    # Every line feed stands between a closing and an opening brace. This cannot occur within a JSON value, so no value
    # spans two lines.
    ends = np.flatnonzero(codes[:-1] == ord("\n"))
    if not (data.startswith(b"{") and (codes[ends - 1] == ord("}")).all() and (codes[ends + 1] == ord("{")).all()):
        return None
    # Openers are [ and {. Only every 250th (half of DEEPEST_JSON) is looked at: a line with more openers than
    # DEEPEST_JSON contains two of those looked at.
    openers = np.flatnonzero((codes & 0xDF) == ord("["))[:: DEEPEST_JSON // 2].tolist()
    if any(data.find(b"\n", one, other) < 0 for one, other in pairwise(openers)):
        return None
    # An integer that is too long is longer than two strides, so it fills a whole stride.
    stride = LONGEST_INTEGER // 2
    digits = codes[::stride] - ord("0") < 10
    for place in np.flatnonzero(digits[1:] & digits[:-1]).tolist():
        if data[stride * place : stride * (place + 1)].isdigit():
            return None
    try:
        records: list[T | None] = [*decoder.decode_lines(data)]
    except _REFUSED:
        return None
    return records if len(records) == len(ends) + 1 else None


def _decode_each(data: bytes, decoder: "msgspec.json.Decoder[T]") -> list[T | None]:
    """The record of each line, or None, decoded line by line."""

    def one(line: bytes) -> T | None:
        try:
            return decoder.decode(line) if _is_sure(line) else None
        except _REFUSED:
            return None

    return [one(line) for line in data.removesuffix(b"\n").split(b"\n")]


def _is_sure(line: bytes) -> bool:
    """Whether the line contains nothing that msgspec accepts and the plain reader refuses."""
    return (
        len(line) <= LONGEST_LINE
        and _is_utf8(line)
        and _openers(line) <= DEEPEST_JSON
        and not _LONG_INTEGER.search(line)
    )


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _openers(line: bytes) -> int:
    return line.count(b"[") + line.count(b"{")


def _depth(brackets: bytes) -> int:
    """How deep brackets nest. Brackets inside Python strings count too, but they seldom open more than they close."""
    deepest = depth = 0
    for bracket in brackets.translate(None, _NO_BRACKET):
        depth += 1 if bracket in b"[{(" else -1
        deepest = max(deepest, depth)
    return deepest


def _read_literal(line: bytes, text: str) -> dict[Any, Any] | str:
    """A line as a Python dictionary of literals, or the reason why it is not one.

    Length and nesting are checked before Python's parser reads the line.
    """
    if not (line.startswith(b"{") and line.rstrip().endswith(b"}")):
        return "neither JSON nor a Python literal"
    if len(line) > LONGEST_LITERAL:
        return "Python literal is too long"
    if _depth(line) > DEEPEST_LITERAL:
        return "nested too deeply"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text raises a warning; its class depends on the Python version
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "neither JSON nor a Python literal"
    return value if isinstance(value, dict) else "not an object"
