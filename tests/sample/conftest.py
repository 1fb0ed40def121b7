"""The sample catalogue, written once a session, and its files read back by the standard library."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import features.encoders
from features.sample import SampleSummary, write_sample

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Written:
    """A folder of raw files and what their writer says of them."""

    raw: Path
    summary: SampleSummary


@dataclass(frozen=True)
class Domain:
    """A domain as its files tell it: metadata by asin, and users' (asin, day) in order after a 5-core."""

    items: dict[str, dict[str, Any]]
    histories: dict[str, list[tuple[str, int]]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Written:
    raw = tmp_path_factory.mktemp("tiny")
    return Written(raw, write_sample(raw, size="tiny"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Written:
    raw = tmp_path_factory.mktemp("demo")
    return Written(raw, write_sample(raw, size="demo"))


@pytest.fixture(scope="session")
def read_domain() -> Callable[[Path, str], Domain]:
    return _read_domain


def _read_domain(raw: Path, name: str) -> Domain:
    items: dict[str, dict[str, Any]] = {}
    with gzip.open(raw / f"meta_{name}.json.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            items.setdefault(record["asin"], record)
    rows: dict[tuple[str, ...], int] = {}
    with (raw / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            try:
                asin, _, _, time = row
                rows.setdefault(tuple(row), int(time))
            except ValueError:
                continue
            if asin not in items:
                rows.pop(tuple(row))
    bought = [(row[0], row[1], time // 86_400) for row, time in rows.items()]
    while True:
        users, asins = Counter(user for _, user, _ in bought), Counter(asin for asin, _, _ in bought)
        kept = [entry for entry in bought if users[entry[1]] >= 5 and asins[entry[0]] >= 5]
        if len(kept) == len(bought):
            break
        bought = kept
    histories: dict[str, list[tuple[str, int]]] = {}
    for asin, user, day in sorted(bought, key=lambda entry: entry[2]):
        histories.setdefault(user, []).append((asin, day))
    kept_items = {asin: items[asin] for asin in sorted({asin for asin, _, _ in bought})}
    return Domain(kept_items, histories)


@pytest.fixture(scope="session")
def sample_clip() -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer  # seconds, which not every worker needs to spend

    return SentenceTransformer(str(Path(features.encoders.__file__).parent / "sample_clip"), device="cpu")
