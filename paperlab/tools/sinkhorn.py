"""Entropic transport plans by Sinkhorn's algorithm in the log domain.

Throughout, ``cost`` has shape ``(n, m)``, and the masses ``a`` ``(n,)`` and ``b`` ``(m,)`` are positive and sum to 1. A
plan is a matrix of masses with row sums ``a`` and column sums ``b``.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from paperlab.arguments import cost_matrix, histogram, positive, whole_number


def log_sum_exp(values: Float[np.ndarray, "n m"], axis: int) -> np.ndarray:
    """``log(sum(exp(values)))`` along an axis, without overflow."""
    largest = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - largest).sum(axis=axis)) + largest.squeeze(axis)


def marginal_violation(plan: Float[np.ndarray, "n m"], a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """``|P 1 - a|_1 + |P^T 1 - b|_1``: how much mass is at the wrong place, counted on both sides."""
    return float(np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum())


@dataclass(frozen=True, eq=False)
class EntropicPlan:
    """The result of ``sinkhorn``: plan, potentials, sweeps used, marginal violation and whether it is below ``tol``."""

    plan: Float[np.ndarray, "n m"]
    f: Float[np.ndarray, " n"]
    g: Float[np.ndarray, " m"]
    sweeps: int
    violation: float
    converged: bool


def sinkhorn(
    cost: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    epsilon: float,
    *,
    tol: float = 1e-9,
    max_sweeps: int = 10_000,
) -> EntropicPlan:
    """The plan ``P`` that minimises ``<C, P> + epsilon sum P (log P - 1)`` among plans from ``a`` to ``b``.

    Alternating maximisation of the dual over ``f`` and ``g``, ``P = exp((f + g - C) / epsilon)``, in the log domain, so
    that no ``epsilon`` under- or overflows. ``epsilon`` is approached from the largest cost by halving, each stage to
    a loose tolerance, which saves most sweeps when it is small. Column sums are exact at the end, row sums up to
    ``violation``. The limit for ``epsilon`` to 0 is the exact plan of largest entropy.

    Source: Cuturi 2013 (arXiv 1306.0895); log domain and scaling of epsilon: Schmitzer 2019 (arXiv 1610.06519).
    Raises ``ValueError`` for bad masses, shapes, or an ``epsilon`` or ``tol`` that is not positive.
    """
    cost = cost_matrix("cost", cost)
    a, b = histogram("a", a, cost.shape[0]), histogram("b", b, cost.shape[1])
    epsilon, tol = positive("epsilon", epsilon), positive("tol", tol)
    whole_number("max_sweeps", max_sweeps, 1)
    log_a, log_b = np.log(a), np.log(b)
    f, g = np.zeros_like(a), np.zeros_like(b)
    sweeps = 0
    stages = max(0, int(np.ceil(np.log2(max(np.ptp(cost), epsilon) / epsilon))))
    for stage in range(stages, -1, -1):
        current = epsilon * 2.0**stage
        # One sweep is left for the epsilon asked for, whose column sums the last plan has in any case.
        stage_tol, most = (max(tol, 1e-2), max_sweeps - 1) if stage else (tol, max_sweeps)
        violation = np.inf
        while violation > stage_tol and sweeps < most:
            # f_i = epsilon (log a_i - log sum_j exp((g_j - C_ij) / epsilon)), and the same for g
            f = current * (log_a - log_sum_exp((g[None, :] - cost) / current, axis=1))
            g = current * (log_b - log_sum_exp((f[:, None] - cost) / current, axis=0))
            plan = np.exp((f[:, None] + g[None, :] - cost) / current)
            violation = marginal_violation(plan, a, b)
            sweeps += 1
    return EntropicPlan(plan, f, g, sweeps, violation, violation <= tol)
