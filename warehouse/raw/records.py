"""Lines that hold one record each, an object of JSON or, in older files, a Python literal: plainly and fast.

`read_record` is the plain statement of what a record is. `decode` reads the same from many lines at once with
msgspec, which makes Python objects of the wanted fields only; it answers for the lines on which the two cannot
differ and leaves the others to the plain reader. What a field means is the business of `warehouse.raw.metadata` and
`warehouse.raw.reviews`.
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
"""Half of a character: Python's strings may hold it, UTF-8 may not."""

LONGEST_LINE: Final = 4 << 20
LONGEST_LITERAL: Final = 256 << 10
DEEPEST_LITERAL: Final = 32
DEEPEST_JSON: Final = 500
"""Well below Python's own limit, which would depend on the depth of the caller."""
LONGEST_INTEGER: Final = 4300
"""Digits. Python refuses longer ones, since their conversion takes quadratic time."""

_BATCH_BYTES: Final = 1 << 20
"""What fits into a processor's cache."""
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[{(]})"))
_JSON_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LONG_INTEGER: Final = re.compile(rb"[0-9]{%d}" % (LONGEST_INTEGER + 1))

_REFUSED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """Some lines of a block: the number of the first, their bytes, and of each what the fast reader makes of it.

    That is None where only the plain reader can say what the line is.
    """

    first_line: int
    data: bytes
    records: list[T | None]

    def lines(self) -> list[bytes]:
        """The lines, without their ends."""
        return self.data.removesuffix(b"\n").split(b"\n")


def read_record(line: bytes) -> tuple[dict[Any, Any], bool] | str:
    """One line as a record, and whether it was a Python literal; or the reason why it is none."""
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
    """The lines of a block, in batches, with what `decoder` makes of each."""
    first_line, start = block.first_line, 0
    while start < len(block.data) or first_line == block.first_line:
        end = block.data.find(b"\n", start + _BATCH_BYTES) + 1 or len(block.data)
        data = block.data[start:end]
        batch = Batch(first_line, data, _decode_at_once(data, decoder) or _decode_each(data, decoder))
        yield batch
        first_line, start = first_line + len(batch.records), end


def usual_ids(texts: Sequence[str]) -> bool:
    """Whether all are ids by anyone's rules: some visible ASCII, and not much."""
    together = "".join(texts)
    lengths = {1, *map(len, texts)}
    return together.isascii() and together.isprintable() and min(lengths) > 0 and max(lengths) < 100


def _decode_at_once(data: bytes, decoder: "msgspec.json.Decoder[T]") -> list[T | None] | None:
    """A record a line; or None if any line might not be one.

    msgspec is strict about JSON, but in the fields it skips it takes bytes that are not UTF-8 and integers of any
    length, it goes deeper, and it reads on where a line ends. The looks at that are quick and on the safe side.
    """
    if len(data) > LONGEST_LINE or not _is_utf8(data):
        return None
    codes = np.frombuffer(data, np.uint8)
    # A brace closed before and opened after a line feed: within a JSON value that cannot be, so no value spans lines.
    ends = np.flatnonzero(codes[:-1] == ord("\n"))
    if not (data.startswith(b"{") and (codes[ends - 1] == ord("}")).all() and (codes[ends + 1] == ord("{")).all()):
        return None
    # A line with too many openers, which are [ and {, holds two that are half as many apart.
    openers = np.flatnonzero((codes & 0xDF) == ord("["))[:: DEEPEST_JSON // 2].tolist()
    if any(data.find(b"\n", one, other) < 0 for one, other in pairwise(openers)):
        return None
    # An integer that is too long fills a whole stride, since it is longer than two.
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
    """What the decoder makes of each line."""

    def one(line: bytes) -> T | None:
        try:
            return decoder.decode(line) if _is_sure(line) else None
        except _REFUSED:
            return None

    return [one(line) for line in data.removesuffix(b"\n").split(b"\n")]


def _is_sure(line: bytes) -> bool:
    """Whether the line holds nothing that msgspec takes and the plain reader does not."""
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
    """How deep brackets nest; those inside Python's strings count too, but they seldom open more than they close."""
    deepest = depth = 0
    for bracket in brackets.translate(None, _NO_BRACKET):
        depth += 1 if bracket in b"[{(" else -1
        deepest = max(deepest, depth)
    return deepest


def _read_literal(line: bytes, text: str) -> dict[Any, Any] | str:
    """A line as a Python dictionary of literals, or the reason why it is none.

    Length and nesting are bounded before Python's parser sees it.
    """
    if not (line.startswith(b"{") and line.rstrip().endswith(b"}")):
        return "neither JSON nor a Python literal"
    if len(line) > LONGEST_LITERAL:
        return "Python literal is too long"
    if _depth(line) > DEEPEST_LITERAL:
        return "nested too deeply"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what "\d" in a text raises has changed its kind from Python to Python
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "neither JSON nor a Python literal"
    return value if isinstance(value, dict) else "not an object"
