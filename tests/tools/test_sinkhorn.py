"""Entropic plans against POT and a closed form, also where exp(-cost / epsilon) underflows."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab.tools.exact_transport import exact_plan
from paperlab.tools.sinkhorn import log_sum_exp, marginal_violation, sinkhorn


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([1.0, 0.1, 0.02]), st.integers(0, 10_000))
def test_plan_of_pot(n, m, epsilon, seed):
    rng = np.random.default_rng(seed)
    C = rng.uniform(size=(n, m))
    a, b = rng.dirichlet(np.full(n, 5.0)), rng.dirichlet(np.full(m, 5.0))
    result = sinkhorn(C, a, b, epsilon, max_sweeps=100_000)
    expected = ot.sinkhorn(a, b, C, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=200_000)
    assert result.converged
    assert np.allclose(result.plan, expected, atol=1e-7)


def test_closed_form_of_two_places():
    C, half = np.array([[0.0, 1.0], [1.0, 0.0]]), np.full(2, 0.5)
    for epsilon in (10.0, 0.5, 1e-2, 1e-4):
        plan = sinkhorn(C, half, half, epsilon).plan
        assert np.isclose(plan[0, 0], 0.5 / (1 + np.exp(-1 / epsilon)), atol=1e-12)


def test_small_epsilon_tends_to_the_exact_plan():
    """Costs over epsilon of 10 000: the kernel underflows, the log domain does not."""
    rng = np.random.default_rng(0)
    C, a = rng.uniform(size=(8, 8)), np.full(8, 1 / 8)
    plan = sinkhorn(C, a, a, 1e-4, tol=1e-6, max_sweeps=200_000).plan
    assert np.isclose((C * plan).sum(), (C * exact_plan(C, a, a)).sum(), atol=1e-4)


def test_columns_are_exact_and_violation_is_honest():
    rng = np.random.default_rng(1)
    C, a, b = rng.uniform(size=(6, 5)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
    for sweeps in (1, 2, 12):
        result = sinkhorn(C, a, b, 0.05, max_sweeps=sweeps)
        assert np.allclose(result.plan.sum(axis=0), b, atol=1e-13)
        assert np.isclose(result.violation, marginal_violation(result.plan, a, b))
        assert not result.converged
        assert result.sweeps == sweeps


def test_log_sum_exp_does_not_overflow():
    values = np.array([[1000.0, 1000.0], [-1000.0, -1001.0]])
    assert np.allclose(log_sum_exp(values, axis=1), [1000 + np.log(2), -1000 + np.log1p(np.exp(-1))])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cost", {"cost": np.array([[np.nan, 0.0]])}),
        ("a", {"a": np.array([2.0])}),
        ("b", {"b": np.array([0.5, -0.5])}),
        ("epsilon", {"epsilon": 0}),
        ("tol", {"tol": np.nan}),
        ("max_sweeps", {"max_sweeps": 0}),
    ],
)
def test_bad_input(name, change):
    arguments = {"cost": np.array([[0.0, 1.0]]), "a": np.ones(1), "b": np.full(2, 0.5), "epsilon": 0.1}
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        sinkhorn(**{**arguments, **change})
