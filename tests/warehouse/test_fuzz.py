"""Raw files as the world damages them: no line lost, none invented, none read otherwise than the plain reader does.

A seeded mutator works on lines as published, on real ones too where they are at hand. 100,000 lines a run in the
full form (`make soak`), some 3,000 otherwise.
"""

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from benchmarks.measure import GIB, measured
from tests.warehouse.agreement import READERS, assert_agrees, lines_of
from warehouse.raw import lines as raw
from warehouse.raw import records

pytestmark = pytest.mark.long

Stage = Callable[[], Path]
Change = Callable[[random.Random, bytes], bytes]

SEEDS: Final = {
    "ratings": [b"B00005N7P0,AH2IFH762VY5U,5.0,1005177600", b"B00005N7OJ,AOSFI0JEYU4XM,3.0,1004486400"],
    "metadata": [
        b'{"category": ["Magazines", "Arts, Music &amp; Photography"], "tech1": "", "description": ["Written by and '
        b'for musicians \\u2014 and others.", "", "a \\"b\\" c"], "title": "<span class=\\"a-size-medium\\"", '
        b'"also_buy": ["B002PXVYGE", "B0054LRNC8"], "brand": "String Letter", "feature": [], '
        b'"rank": "742 in Magazines (", "details": {"Format:": "Print", "ASIN: ": "B00005N7OC"}, "price": "", '
        b'"asin": "B00005N7OC", "imageURL": ["https://images/51s._SX38_.jpg", "https://images/61r._SX38_.jpg"], '
        b'"imageURLHighRes": ["https://images/51s.jpg"]}',
        b'{"asin": "B1", "title": 1984, "categories": [["Home", "Mugs"], ["Home"]], "imUrl": "http://a", "price": 4.5}',
    ],
    "literals": [
        b"""{'asin': '0001048791', 'title': "The Crucible: Performed by Stuart Pankin, Jerome Dempsey &amp; Cast", """
        b"""'salesRank': {'Books': 6334800}, 'imUrl': 'http://ecx.images/51.jpg', 'categories': [['Books']]}""",
        b"{'asin': '0000143561', 'description': '3Pack \\u2014 \\d', 'price': 12, 'related': None, 'brand': u'x'}",
    ],
    "reviews": [
        b'{"overall": 5.0, "vote": "9", "verified": false, "reviewTime": "11 8, 2001", "reviewerID": "AH2IFH762VY5U", '
        b'"asin": "B00005N7P0", "reviewerName": "ted sedman", "reviewText": "for computer\\n\\"enthusiast\\"", '
        b'"style": {"Format:": " Print"}, "summary": "AVID READER", "unixReviewTime": 1005177600}',
        b"{'reviewerID': 'A2SUAM1J3GNN3B', 'asin': '0000013714', 'helpful': [2, 3], "
        b"'overall': 5.0, 'unixReviewTime': 1252800000}",
    ],
}
REAL: Final = {"ratings": "Magazine_Subscriptions.csv", "metadata": "meta_Magazine_Subscriptions.json.gz"}
PIECES: Final = [
    *b"null true NaN -Infinity 1e999 1e39 -1 0x1F 01 .5 5_0".split(),
    *b'"" "x" [] {} [1,] {1:2} , : " \' \\ \\u0000 \\ud800'.split(),
    *(b"9" * n for n in (19, 400, 4300, 4301)),
    *(b"[" * n + b"]" * n for n in (40, 500, 501, 5000)),
    *(b"\x00", b"\x0b", b"\x1a", b"\x7f", b"\xff", b"\xc3"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8"),
    *(b" ", b"\t", b"\r", b"\n", b"\r\n", b"\n\n", b"\n\r\n", b'"asin": "B9", ', b', "asin": 7', b'{"asin": "B8"}'),
]


def _flip(dice: random.Random, line: bytes) -> bytes:
    changed = bytearray(line)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(line))] = dice.randrange(256)
    return bytes(changed)


def _insert(dice: random.Random, line: bytes) -> bytes:
    place = dice.randint(0, len(line))
    return line[:place] + dice.choice(PIECES) + line[place:]


def _replace_a_value(dice: random.Random, line: bytes) -> bytes:
    starts = [place for place, code in enumerate(line) if code in b",:"] or [0]
    start = dice.choice(starts) + 1
    end = next((place for place in range(start + 1, len(line)) if line[place] in b",}"), len(line))
    return line[:start] + dice.choice(PIECES) + line[end:]


def _cut(dice: random.Random, line: bytes) -> bytes:
    return line[: dice.randint(0, len(line))]


def _double(dice: random.Random, line: bytes) -> bytes:
    return line + dice.choice([b"", b" ", b"\n", b","]) + line


CHANGES: Final[list[Change]] = [_flip, _insert, _insert, _replace_a_value, _replace_a_value, _cut, _double]


def _mutated(dice: random.Random, seeds: list[bytes], lines: int) -> bytes:
    """The bytes of a file with at least as many lines, about half of them changed."""
    parts = [b"\xef\xbb\xbf"] if dice.random() < 0.3 else []
    returns = dice.choice([0, 0.5, 1])
    for number in range(lines):
        line = dice.choice(seeds)
        for _ in range(dice.choice([0, 0, 1, 1, 1, 2, 3]) if number else 0):
            line = dice.choice(CHANGES)(dice, line) if line else dice.choice(PIECES)
        parts.append(line + (b"\r\n" if dice.random() < returns else b"\n"))
    if dice.random() < 0.5:
        parts[-1] = parts[-1].rstrip(b"\r\n") or b"x"
    return b"".join(parts)


def _seeds(kind: str) -> list[bytes]:
    """Lines as published; real ones among them where MMM4REC_SHARED names their folder."""
    folder = os.environ.get("MMM4REC_SHARED")
    if not folder or kind not in REAL:
        return SEEDS[kind]
    source = Path(folder) / "data/amazon_2018" / REAL[kind]
    block = next(raw.blocks(source, 1 << 20))
    return SEEDS[kind] + block.data.split(b"\n")[:200]


def _run(stage: Stage, kind: str, seed: int, lines: int) -> None:
    dice = random.Random(f"{kind} {seed}")
    reader = "metadata" if kind == "literals" else kind
    content = _mutated(dice, _seeds(kind), lines)
    compressed = dice.random() < 0.5
    half = dice.randrange(len(content))
    source = stage() / "raw"
    source.write_bytes(gzip.compress(content[:half], 1) + gzip.compress(content[half:], 1) if compressed else content)
    first, second = stage(), stage()
    READERS[reader][0](source, first)
    with pytest.MonkeyPatch.context() as patch:  # wherever blocks and batches end
        patch.setattr(raw, "_BLOCK_BYTES", dice.choice([1 << 10, 1 << 14, 8 << 20]))
        patch.setattr(records, "_BATCH_BYTES", dice.choice([1, 1 << 9, 1 << 12]))
        assert_agrees(reader, source, second, content)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), f"{path.name} differs on a second run"


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_are_read_as_the_plain_readers_say(stage: Stage, kind: str) -> None:
    for seed in range(5):
        _run(stage, kind, seed, 150)


@pytest.mark.soak
@pytest.mark.parametrize("kind", SEEDS)
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_thousand_mutated_lines(stage: Stage, kind: str, seed: int) -> None:
    _run(stage, kind, seed, 2500)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("giant", [b"x", b"[", b'{"', b" ", b"\r", b'{"asin": "B1"} '])
def test_a_line_of_ten_megabytes_is_one_line(stage: Stage, kind: str, giant: bytes) -> None:
    good = SEEDS[kind][0]
    line = giant * (10_000_000 // len(giant))
    source = stage() / "raw"
    content = b"\n".join([good, line, good, line])
    source.write_bytes(content)
    assert assert_agrees(kind, source, stage(), content) == {"line is too long": 2}


@pytest.mark.parametrize("kind", READERS)
def test_memory_does_not_grow_with_a_line(stage: Stage, kind: str) -> None:
    """A line of 512 MB, some hundred KB as gzip, read in a process of its own."""
    source = stage() / "raw.gz"
    with gzip.open(source, "wb", compresslevel=1) as file:
        file.write(SEEDS[kind][0] + b"\n")
        for _ in range(128):
            file.write(b" " * (4 << 20))
        file.write(b"\n" + SEEDS[kind][0])
    run = measured(READERS[kind][0], source, stage())
    assert (run.result.rows, run.result.reasons) == (2, {"line is too long": 1})
    assert run.peak_rss_bytes < 0.4 * GIB


def test_the_mutator_finds_what_it_is_for() -> None:
    """It makes lines good and bad, in most of the ways the readers know."""
    wanted: dict[str, set[str]] = {
        "ratings": {"wrong number of fields", "not UTF-8", "control character", "rating is not a finite number"},
        "metadata": {
            "neither JSON nor a Python literal",
            "not UTF-8",
            "asin is missing or not text",
            "nested too deeply",
        },
        "literals": {"neither JSON nor a Python literal", "not an object", "nested too deeply"},
        "reviews": {"asin or reviewerID is missing or not text", "time is not a whole number", "control character"},
    }
    for kind, reasons in wanted.items():
        read = READERS["metadata" if kind == "literals" else kind][1]
        content = _mutated(random.Random(kind), SEEDS[kind], 2000)
        answers = [read(line) for line in lines_of(content)]
        assert reasons <= {answer for answer in answers if isinstance(answer, str)}, kind
        assert sum(not isinstance(answer, str) for answer in answers) > 500, kind
