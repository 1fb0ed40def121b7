"""The recipe in plain Python: the expected contents of the warehouse's tables, and the reference for their speed.

It is written as a programmer would write it who knows the recipe and uses only the standard library.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from warehouse.core.settings import LEAVE_ONE_OUT, LeaveOneOut, SplitRule, Wanted
from warehouse.raw.ratings import read_line

__all__ = ["Row", "interactions", "k_core", "run", "sequences"]


class Row(NamedTuple):
    """A rating; `position` is its line number."""

    position: int
    user: str
    item: str
    rating: float
    time: int


def run(ratings: Path, items: Collection[str], out: Path, k: int = 5) -> dict[str, int]:
    """Read a ratings file and write the same tables as the warehouse, as JSON lines."""
    rows = []
    with ratings.open("rb") as lines, (out / "ratings.jsonl").open("w") as table:
        for number, line in enumerate(lines, 1):
            rating = read_line(line.removesuffix(b"\n"))
            if not isinstance(rating, str):
                rows.append(Row(number, rating.user_id, rating.item_id, rating.rating, rating.time))
                table.write(json.dumps(rows[-1]) + "\n")
    kept, rejected = interactions(rows, items)
    for name, part in (("interactions", kept), ("rejected", rejected)):
        with (out / f"{name}.jsonl").open("w") as table:
            table.writelines(json.dumps(row) + "\n" for row in part)
    found = sequences(k_core(kept, k))
    with (out / "sequences.jsonl").open("w") as table:
        for user, sequence in found.items():
            parts = [part for _, part in sequence]
            table.write(json.dumps([user, [row for row, _ in sequence], parts]) + "\n")
    return {"users": len(found), "interactions": sum(map(len, found.values()))}


def interactions(
    ratings: Iterable[Row], items: Collection[str], wanted: Wanted | None = None
) -> tuple[list[Row], list[tuple[Row, str]]]:
    """The distinct ratings of items with metadata that `wanted` includes; the others, each with its first reason."""
    wanted = wanted or Wanted()
    seen = set()
    kept, rejected = [], []
    for row in ratings:
        if row[1:] in seen:
            rejected.append((row, "exact_duplicate"))
            continue
        seen.add(row[1:])
        if row.item not in items:
            rejected.append((row, "no_metadata"))
        elif wanted.minimum_rating is not None and row.rating < wanted.minimum_rating:
            rejected.append((row, "below_minimum_rating"))
        elif (wanted.since is not None and row.time < wanted.since) or (
            wanted.until is not None and row.time >= wanted.until
        ):
            rejected.append((row, "outside_time_window"))
        else:
            kept.append(row)
    return kept, rejected


def k_core(rows: list[Row], k: int) -> list[Row]:
    """Remove the rows of users and items with fewer than k rows, until no such user or item is left."""
    while True:
        users, items = Counter(row.user for row in rows), Counter(row.item for row in rows)
        kept = [row for row in rows if users[row.user] >= k and items[row.item] >= k]
        if len(kept) == len(rows):
            return rows
        rows = kept


def sequences(
    rows: Iterable[Row], split: SplitRule = LEAVE_ONE_OUT, max_length: int | None = None
) -> dict[str, list[tuple[Row, str]]]:
    """Each user's rows ordered by (time, position), each with its split. Users are in the order of their bytes."""
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user].append(row)
    found = {}
    for user in sorted(by_user, key=str.encode):
        sequence = sorted(by_user[user], key=lambda row: (row.time, row.position))
        if max_length is not None:
            sequence = sequence[-max_length:]
        found[user] = list(zip(sequence, _parts(sequence, split), strict=True))
    return found


def _parts(sequence: list[Row], split: SplitRule) -> list[str]:
    if isinstance(split, LeaveOneOut):
        return ["train"] * (len(sequence) - 2) + ["validation", "test"]
    borders = (split.validation_from, split.test_from)
    return [("train", "validation", "test")[sum(row.time >= border for border in borders)] for row in sequence]
