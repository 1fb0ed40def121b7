"""Checks that vectors distinguish contents, because an encoder with a missing part can silently give all contents the
same vector."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.encoders import EncoderIdentity, Vectors
from features.encoders.probe import TOLERANCE
from features.errors import FeatureError

_FEWEST = 8
"""With fewer contents, the result would depend on chance, so nothing is checked."""
_SAMPLE = 1024
"""Contents that are compared pairwise, chosen evenly from all; this takes about 0.1 s of one core."""
_SHARED, _SHARED_READY = 0.25, 0.5
"""Highest share of contents that may have the same vector as another content. It is not 0, because some texts differ
only in capital letters or after the last token that is read. For ready vectors it is unknown which contents are the
same, so only a placeholder for most items is refused."""
_CLOSE = 0.999
"""Cosine above which two vectors count as the same; for most pairs of any catalogue, real models stay below it."""
_NEARLY_ALL = 0.95
"""Vectors are refused if more than this share of the pairs is that close."""


def check_spread(
    vectors: Vectors, rows: NDArray[np.int64], ids: Sequence[str], noun: str, identity: EncoderIdentity, ready: bool
) -> None:
    """Refuse vectors that do not distinguish contents.

    Args:
        vectors: [n, width].
        rows: rows of different contents, or of all present items of ready vectors; none of them is zero.
        ids: [n], for the message.
        noun: noun of the table, for the message.
        identity: identity of the encoder.
        ready: whether the vectors were made elsewhere. Ready vectors are compared by distance, because their lengths
            may distinguish items; other vectors are compared by direction.

    Raises:
        FeatureError: too many contents share a vector, or nearly all vectors are nearly parallel; the message says what
            to check.
    """
    if len(rows) < _FEWEST:
        return
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64)]
    sample = vectors[rows].astype(np.float64)
    if not ready:
        sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    products = sample @ sample.T
    squares = np.diagonal(products)
    # Squared distances as a share of the squared lengths: 2 * (1 - cosine) if the lengths are equal.
    apart = (squares[:, None] + squares - 2 * products) / np.sqrt(squares[:, None] * squares)
    # Equal up to a tolerance: the other contents of a batch change a vector by rounding.
    same = np.tril(apart <= (TOLERANCE[identity.precision] / 5) ** 2, -1)
    shared = float(same.any(axis=1).mean())
    pairs = len(rows) * (len(rows) - 1)
    close = (int((apart <= 2 * (1 - _CLOSE)).sum()) - len(rows)) / pairs
    if shared > (_SHARED_READY if ready else _SHARED):
        one, other = (ids[rows[number]] for number in np.argwhere(same)[0])
        what = f"{shared:.0%} of the {len(rows):,} compared have the vector of another, such as {one!r} and {other!r}"
    elif close > _NEARLY_ALL:
        what = f"{close:.0%} of the pairs of the {len(rows):,} compared are nearly parallel (cosine above {_CLOSE})"
    else:
        return
    if ready:
        raise FeatureError(
            f"{noun}: the ready vectors {identity.model} do not tell items apart: {what}. Check how they were made, "
            "and use null for items without a vector"
        )
    raise FeatureError(
        f"{noun}: encoder {identity.model} does not tell different contents apart: {what}. Check that its folder is "
        "complete, that its tokenizer belongs to its weights, and that the contents are right"
    )
