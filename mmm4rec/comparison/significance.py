"""Whether two models differ: a paired permutation test over the users whom both models have ranked.

Users with equal figures give no information. If the models were equally good, the difference of every other user could
equally well have the opposite sign. p is the share of all sign assignments whose sum is at least as far from zero as
the observed sum (two-sided).
"""

import numpy as np
import numpy.typing as npt

EXACT = 12
"""Up to this number of differing users, all 2^n assignments are counted; above it, DRAWN seeded ones."""
DRAWN = 9_999
_HELD = 2**22
"""The number of signs in memory at a time."""


def paired_p(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], seed: int = 0) -> float:
    """p of the difference between two figures per user, [U] each and in the same order of users.

    Drawn assignments include the observed one, so that p is never 0.
    """
    differences = ours - theirs
    differences = differences[differences != 0]
    count = len(differences)
    if not count:
        return 1.0
    # Tolerance, because the sum of the same numbers in another order differs in the last digits.
    least = abs(differences.sum()) * (1 - 1e-12)
    if count <= EXACT:
        signs = (np.arange(2**count)[:, None] >> np.arange(count) & 1) * 2 - 1
        return float((abs(signs @ differences) >= least).mean())
    random, extreme, left = np.random.default_rng(seed), 1, DRAWN
    while left:
        drawn = min(left, max(1, _HELD // count))
        signs = random.integers(0, 2, size=(drawn, count), dtype=np.int8) * 2 - 1
        extreme += int((abs(signs @ differences) >= least).sum())
        left -= drawn
    return extreme / (DRAWN + 1)
