"""Exact plans against POT, and the closed form on the line against the linear program."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from paperlab.tools.exact_transport import exact_plan, monotone_plan
from paperlab.tools.sinkhorn import marginal_violation


@pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 11), (30, 20)])
def test_cost_of_pot(n, m):
    rng = np.random.default_rng(n)
    C, a, b = rng.uniform(size=(n, m)), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    plan = exact_plan(C, a, b)
    assert np.isclose((C * plan).sum(), ot.emd2(a, b, C), atol=1e-9)
    assert marginal_violation(plan, a, b) < 1e-8
    assert np.count_nonzero(plan > 1e-12) <= n + m - 1


def test_assignment_for_equal_masses():
    rng = np.random.default_rng(0)
    C, a = rng.uniform(size=(120, 120)), np.full(120, 1 / 120)
    plan = exact_plan(C, a, a)
    assert np.isclose((C * plan).sum(), ot.emd2(a, a, C), atol=1e-12)
    assert np.count_nonzero(plan) == 120


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10_000))
def test_sorting_is_optimal_on_the_line(n, m, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.normal(size=m)
    a, b = rng.dirichlet(np.ones(n) * 2), rng.dirichlet(np.ones(m) * 2)
    a, b = (a + 1e-6) / (a + 1e-6).sum(), (b + 1e-6) / (b + 1e-6).sum()
    plan = monotone_plan(x, y, a, b)
    C = cdist(x[:, None], y[:, None], "sqeuclidean")
    assert marginal_violation(plan, a, b) < 1e-12
    assert plan.min() >= 0
    assert np.isclose((C * plan).sum(), ot.emd2(a, b, C), atol=1e-9)


def test_too_large_a_linear_program_is_refused():
    n = 90
    with pytest.raises(ValueError, match="cost has 90 x 90 entries"):
        exact_plan(np.ones((n, n)), np.arange(1, n + 1) / np.arange(1, n + 1).sum(), np.full(n, 1 / n))


def test_bad_input():
    half = np.full(2, 0.5)
    with pytest.raises(ValueError, match="^cost"):
        exact_plan(np.ones(2), half, half)
    with pytest.raises(ValueError, match="^b sums to 1.1"):
        exact_plan(np.eye(2), half, np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match="^x"):
        monotone_plan(np.array([np.inf, 0]), half, half, half)
