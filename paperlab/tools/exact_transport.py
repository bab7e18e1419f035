"""Exact transport plans: an assignment, a linear program, or sorting on the line.

Shapes as in ``paperlab.tools.sinkhorn``: ``cost`` ``(n, m)``, masses ``a`` ``(n,)`` and ``b`` ``(m,)``.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye_array, kron, vstack

from paperlab.arguments import cost_matrix, finite_array, histogram

# HiGHS needs about a second at 80 x 80 points, and grows fast from there.
LARGEST_LINEAR_PROGRAM = 80 * 80


def exact_plan(
    cost: Float[np.ndarray, "n m"], a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "n m"]:
    """A plan of least cost ``<C, P>``: an assignment for equal uniform masses, otherwise a linear program.

    The plan is a vertex: at most ``n + m - 1`` entries are positive. Raises ``ValueError`` for bad input, and beyond
    6400 entries if the masses are not uniform, where HiGHS becomes slow.
    """
    cost = cost_matrix("cost", cost)
    n, m = cost.shape
    a, b = histogram("a", a, n), histogram("b", b, m)
    plan = np.zeros((n, m))
    if is_assignment(a, b):
        plan[linear_sum_assignment(cost)] = 1 / n
        return plan
    if n * m > LARGEST_LINEAR_PROGRAM:
        raise ValueError(
            f"cost has {n} x {m} entries; with masses that are not uniform, at most {LARGEST_LINEAR_PROGRAM} are solved"
        )
    row_sums = kron(eye_array(n), np.ones((1, m)))
    column_sums = kron(np.ones((1, n)), eye_array(m))
    solution = linprog(
        cost.ravel(), A_eq=vstack([row_sums, column_sums], format="csr"), b_eq=np.concatenate([a, b]), method="highs"
    )
    return solution.x.reshape(n, m)


def is_assignment(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> bool:
    """Whether the masses are equally many and all the same: then some exact plan is a permutation."""
    return len(a) == len(b) and np.ptp(a) < 1e-12 and np.ptp(b) < 1e-12


def monotone_plan(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "n m"]:
    """The plan on the line that keeps the order: optimal for every cost that is a convex function of ``x - y``.

    ``O(n log n)``; at most ``n + m - 1`` positive entries. Raises ``ValueError`` for bad masses or positions.
    """
    x, y = finite_array("x", x, ndim=1), finite_array("y", y, ndim=1)
    a, b = histogram("a", a, len(x)), histogram("b", b, len(y))
    rows, columns = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    ends_a, ends_b = np.cumsum(a[rows]), np.cumsum(b[columns])
    ends_a[-1] = ends_b[-1] = 1.0
    # Between two successive ends, all mass goes from one point to one point.
    ends = np.union1d(ends_a, ends_b)
    plan = np.zeros((len(x), len(y)))
    i, j = np.searchsorted(ends_a, ends), np.searchsorted(ends_b, ends)
    plan[rows[i], columns[j]] = np.diff(ends, prepend=0.0)
    return plan
