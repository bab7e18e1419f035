"""The probability simplex: projection onto it, and how concentrated a point of it is."""

import numpy as np
from jaxtyping import Float

from paperlab.arguments import finite_array, positive


def project_to_simplex(vector: Float[np.ndarray, "... d"], total: float = 1.0) -> Float[np.ndarray, "... d"]:
    """The nearest point, in Euclidean distance, with non-negative entries that sum to ``total``; row by row.

    Sorting finds the threshold in ``O(d log d)`` (Held, Wolfe and Crowder 1974; Duchi et al. 2008). Exact up to
    rounding. Raises ``ValueError`` if the vector is empty or not finite, or ``total`` is not positive.
    """
    rows = finite_array("vector", vector, ndim=(1, 2))
    total = positive("total", total)
    ordered = -np.sort(-rows, axis=-1)
    # theta_k = (v_(1) + ... + v_(k) - total) / k is right for the largest k with v_(k) > theta_k
    thresholds = (np.cumsum(ordered, axis=-1) - total) / np.arange(1, rows.shape[-1] + 1)
    last = np.sum(ordered > thresholds, axis=-1, keepdims=True) - 1
    return np.maximum(rows - np.take_along_axis(thresholds, last, axis=-1), 0)


def entries_carrying(mass: np.ndarray, share: float = 0.99) -> int:
    """How many of the largest entries of a non-negative array carry at least this share of its sum.

    Raises ``ValueError`` if an entry is negative, all are 0, or ``share`` is not between 0 and 1.
    """
    ordered = _from_largest(mass)
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must lie in (0, 1]")
    running = np.cumsum(ordered)
    # Rounding may leave the last partial sum just below share * sum when share is 1.
    return min(int(np.searchsorted(running, share * running[-1])) + 1, len(ordered))


def share_of_largest(mass: np.ndarray, fraction: float) -> float:
    """The share of the sum that the largest ``fraction`` of the entries carries, at least one entry.

    Raises ``ValueError`` as ``entries_carrying`` does.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction} must lie in (0, 1]")
    ordered = _from_largest(mass)
    return float(ordered[: max(1, round(fraction * len(ordered)))].sum() / ordered.sum())


def _from_largest(mass: np.ndarray) -> np.ndarray:
    ordered = -np.sort(-np.ravel(mass))
    if ordered[-1] < 0 or ordered[0] == 0:
        raise ValueError(f"mass has entries from {ordered[-1]:g} to {ordered[0]:g}; non-negative, not all 0, is needed")
    return ordered
