"""Which interactions are for training, validation and testing, and the identity of such a split.

`warehouse.core.settings` declares the rules and what they need.
"""

import hashlib
from typing import assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.core.kcore import Codes, Longs
from warehouse.core.settings import GlobalTimeSplit, LeaveOneOut, SplitRule
from warehouse.errors import DataError
from warehouse.parquet import ROW_GROUP
from warehouse.tables import SPLITS

__all__ = ["SplitCodes", "split_parts", "split_sha256"]

SplitCodes = npt.NDArray[np.int8]
"""The part of each interaction, an index into SPLITS."""


def split_parts(times: Longs, starts: Longs, rule: SplitRule) -> SplitCodes:
    """Part of each interaction [E].

    Args:
        times: [E] Unix seconds, sorted by (user, time).
        starts: [U + 1] borders: user u has the interactions from starts[u] to before starts[u + 1].
        rule: how they are split.

    Raises:
        DataError: nothing is left to train on.
    """
    match rule:
        case LeaveOneOut():
            parts = np.zeros(len(times), np.int8)
            last = starts[1:] - 1
            parts[last - 1], parts[last] = SPLITS.index("validation"), SPLITS.index("test")
        case GlobalTimeSplit():
            parts = (times >= rule.validation_from).astype(np.int8) + (times >= rule.test_from)
            if not (parts == 0).any():
                raise DataError(
                    "no interaction is before validation_from, so there is nothing to train on; set a later date"
                )
        case _:
            assert_never(rule)
    return parts


def split_sha256(
    user_ids: pa.Array, item_ids: pa.Array, users: Codes, items: Codes, times: Longs, parts: SplitCodes
) -> str:
    """A hash of users, items, times and parts: two data sets have the same hash exactly if their splits are equal.

    It is the sha256 of these bytes, in this order: the sorted user ids, then the sorted item ids, each id followed by a
    line feed; then four little-endian arrays with one value per interaction, sorted by (user, step): the user's place
    among the user ids (int32, from 0), the item's place (int32), the time (int64), and the part (int8: 0 train,
    1 validation, 2 test). It does not depend on file formats.
    """
    digest = hashlib.sha256()
    for ids in (user_ids, item_ids):
        for start in range(0, len(ids), ROW_GROUP):
            some = ids[start : start + ROW_GROUP]
            digest.update(pc.binary_join(pa.ListArray.from_arrays([0, len(some)], some), "\n")[0].as_buffer())
            digest.update(b"\n")
    for values, kind in ((users, "<i4"), (items, "<i4"), (times, "<i8"), (parts, "<i1")):
        digest.update(np.ascontiguousarray(values, kind).data)
    return digest.hexdigest()
