"""Sinkhorn-Newton-Sparse against POT, finite differences and a general-purpose optimiser."""

import numpy as np
import ot
import pytest
from scipy.optimize import check_grad, minimize

from paperlab.transport import sinkhorn_newton_sparse as paper


def instance(n: int = 12, m: int = 9, seed: int = 0):
    """A small problem with unequal masses."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, m)), rng.dirichlet(np.full(n, 5.0)), rng.dirichlet(np.full(m, 5.0))


def dual(z, C, a, b, eta):
    x, y = z[: len(a)], z[len(a) :]
    return paper.dual_value(paper.coupling(C, x, y, eta), x, y, a, b, eta)


def gradient(z, C, a, b, eta):
    P = paper.coupling(C, z[: len(a)], z[len(a) :], eta)
    return np.concatenate([a - P.sum(axis=1), b - P.sum(axis=0)])


def test_same_plan_as_pot():
    C, a, b = instance()
    for eta in (5.0, 60.0):
        expected = ot.sinkhorn(a, b, C, reg=1 / eta, method="sinkhorn_log", stopThr=1e-13, numItermax=50_000)
        solution = paper.sinkhorn_newton_sparse(C, a, b, eta, n_sinkhorn=3, kept_per_row=9)
        assert solution.history[-1] < 1e-10
        assert np.allclose(solution.plan, expected, atol=1e-9)


def test_maximum_of_the_dual():
    """A general-purpose optimiser finds no higher value of f."""
    C, a, b = instance(6, 5)
    solution = paper.sinkhorn_newton_sparse(C, a, b, 10.0, n_sinkhorn=1, kept_per_row=5)
    best = minimize(lambda z: -dual(z, C, a, b, 10.0), np.zeros(11), jac=lambda z: -gradient(z, C, a, b, 10.0))
    plan = paper.coupling(C, best.x[:6], best.x[6:], 10.0)
    assert np.allclose(plan, solution.plan, atol=1e-6)


def test_gradient_against_finite_differences():
    C, a, b = instance()
    z = np.random.default_rng(1).normal(scale=0.05, size=21)
    assert check_grad(dual, gradient, z, C, a, b, 7.0) < 1e-5


def test_hessian_against_finite_differences():
    """With all entries kept, -eta H is the derivative of the gradient."""
    C, a, b = instance()
    z, eta, step = np.random.default_rng(1).normal(scale=0.05, size=21), 7.0, 1e-6
    H = paper.sparse_hessian(paper.coupling(C, z[:12], z[12:], eta), 12 * 9).toarray()
    for k, unit in enumerate(np.eye(21)):
        change = gradient(z + step * unit, C, a, b, eta) - gradient(z - step * unit, C, a, b, eta)
        assert np.allclose(-eta * H[:, k], change / (2 * step), atol=1e-5)


def test_truncated_hessian_keeps_its_sums():
    """The diagonal holds the full sums, so H is diagonally dominant and has no negative eigenvalue."""
    C, *_ = instance()
    P = paper.coupling(C, np.zeros(12), np.zeros(9), 20.0)
    H = paper.sparse_hessian(P, 12 * 2).toarray()
    assert np.allclose(H.diagonal(), np.concatenate([P.sum(axis=1), P.sum(axis=0)]))
    assert np.count_nonzero(H[:12, 12:]) == 24
    assert set(H[:12, 12:][H[:12, 12:] > 0]) == set(np.sort(P, axis=None)[-24:])
    assert np.linalg.eigvalsh(H).min() > -1e-12


def test_sweep_makes_sums_right():
    C, a, b = instance()
    x, y = paper.sinkhorn_sweep(C, a, b, np.random.default_rng(2).normal(size=9), 15.0)
    assert np.allclose(paper.coupling(C, x, y, 15.0).sum(axis=0), b, atol=1e-13)
    x_next, _ = paper.sinkhorn_sweep(C, a, b, y, 15.0)
    assert np.allclose(paper.coupling(C, x_next, y, 15.0).sum(axis=1), a, atol=1e-13)


def test_line_search_never_lets_f_fall():
    C, a, b = instance(seed=1)
    eta = 200.0
    x, y = paper.sinkhorn_sweep(C, a, b, np.zeros(9), eta)
    P = paper.coupling(C, x, y, eta)
    for _ in range(4):
        before = paper.dual_value(P, x, y, a, b, eta)
        delta, slope, _ = paper.newton_direction(P, a, b, eta, 12 * 5, 1e-8)
        x, y, P = paper.line_search(C, a, b, x, y, P, delta, slope, eta)
        assert paper.dual_value(P, x, y, a, b, eta) > before


def test_two_places_by_hand():
    """P_11 = 1/2 / (1 + exp(-eta)) for costs 0 and 1 and equal masses, and no overflow for any eta."""
    C, half = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.5, 0.5])
    for eta in (0.01, 3.0, 50.0, 5000.0):
        plan = paper.sinkhorn_newton_sparse(C, half, half, eta, n_sinkhorn=1, kept_per_row=2).plan
        assert np.isclose(plan[0, 0], 0.5 / (1 + np.exp(-eta)), atol=1e-12)


def test_few_newton_steps():
    """Newton's method with the right direction and step length needs only a few steps; a wrong one needs many."""
    C, a, b = instance(40, 40)
    solution = paper.sinkhorn_newton_sparse(C, a, b, 100.0, n_sinkhorn=10, max_newton=12, kept_per_row=20)
    assert solution.history[-1] < 1e-10
    assert solution.n_sinkhorn == 10


def test_iterations_are_counted():
    C, a, b = instance()
    solution = paper.sinkhorn_newton_sparse(C, a, b, 60.0, n_sinkhorn=4, max_newton=2, kept_per_row=9)
    assert (solution.n_sinkhorn, solution.n_newton, len(solution.history)) == (4, 2, 6)
    assert paper.sinkhorn(C, a, b, 60.0, max_sweeps=7).n_newton == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("C", {"C": np.array([[np.nan, 1.0], [1.0, 0.0]])}),
        ("C", {"C": np.zeros((0, 2))}),
        ("a", {"a": np.array([1.5, -0.5])}),
        ("a", {"a": np.array([1.0, 0.0])}),
        ("a", {"a": np.ones(3) / 3}),
        ("b", {"b": np.array([0.5, 0.6])}),
        ("eta", {"eta": 0.0}),
        ("tol", {"tol": -1.0}),
        ("cg_tol", {"cg_tol": np.inf}),
        ("n_sinkhorn", {"n_sinkhorn": 0}),
        ("max_newton", {"max_newton": -1}),
        ("kept_per_row", {"kept_per_row": 3}),
        ("kept_per_row", {"kept_per_row": 1.5}),
    ],
)
def test_bad_input(name, change):
    arguments = {"C": np.eye(2), "a": np.full(2, 0.5), "b": np.full(2, 0.5), "eta": 5.0, "kept_per_row": 1}
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        paper.sinkhorn_newton_sparse(**{**arguments, **change})


def test_bad_problem():
    with pytest.raises(ValueError, match="name='circle'"):
        paper.problem("circle", 5, np.random.default_rng(0))


SLIPS = {
    "sums of the kept entries on the diagonal": (
        "np.concatenate([P.sum(axis=1), P.sum(axis=0)])\n    i, j",
        "np.concatenate([sparsify(P, n_kept).sum(axis=1), sparsify(P, n_kept).sum(axis=0)])\n    i, j",
    ),
    "cost with the wrong sign in the columns": ("(x[:, None] - C), axis=0)", "(x[:, None] + C), axis=0)"),
    "the -1 of the exponent forgotten in the rows": (
        "x = (np.log(a) + 1 - log_sum_exp",
        "x = (np.log(a) - log_sum_exp",
    ),
    "eta forgotten in the Newton system": ("(eta * s[H.row] * H.data", "(s[H.row] * H.data"),
    "no line search: the full step always": ("if f_new >= f + 1e-4 * alpha * slope - rounding:", "if True:"),
    "the smallest entries kept": ("P.size - n_kept, axis=None)[P.size - n_kept :]", "n_kept, axis=None)[:n_kept]"),
}
CATCHES = {
    "sums of the kept entries on the diagonal": ["test_truncated_hessian_keeps_its_sums"],
    "cost with the wrong sign in the columns": ["test_sweep_makes_sums_right"],
    "the -1 of the exponent forgotten in the rows": ["test_sweep_makes_sums_right"],
    "eta forgotten in the Newton system": ["test_few_newton_steps"],
    "no line search: the full step always": ["test_line_search_never_lets_f_fall"],
    "the smallest entries kept": ["test_truncated_hessian_keeps_its_sums"],
}
