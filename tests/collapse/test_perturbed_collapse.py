"""The tied model against L-BFGS, automatic differentiation and the closed form of the untied one."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from paperlab.collapse import perturbed_collapse as paper

LAM = 0.05


def instance(seed: int = 0, n_classes: int = 3, n: int = 4, d: int = 5):
    rng = np.random.default_rng(seed)
    H0 = np.repeat(rng.normal(size=(d, n_classes)), n, axis=1) + 0.5 * rng.normal(size=(d, n_classes * n))
    return H0, paper.one_hot(n_classes, n), rng


def test_best_classifier_is_the_best():
    H, Y, rng = instance()
    best = paper.best_classifier(H, Y, LAM)
    value = paper.loss(best, H, H, Y, LAM, 0.1, 0.3)
    for _ in range(20):
        assert paper.loss(best + 0.01 * rng.normal(size=best.shape), H, H, Y, LAM, 0.1, 0.3) > value
    fitted = minimize(
        lambda w: paper.loss(w.reshape(best.shape), H, H, Y, LAM, 0.1, 0.3), np.zeros(best.size), tol=1e-14
    )
    assert np.allclose(fitted.x.reshape(best.shape), best, atol=1e-5)


def test_feature_gradient_against_automatic_differentiation():
    """Through the best classifier: the envelope theorem says that nothing is missing."""
    H0, Y, rng = instance()
    H = torch.tensor(H0 + 0.1 * rng.normal(size=H0.shape), requires_grad=True)
    N, K = Y.shape[1], len(Y)
    W = torch.tensor(Y) @ H.T @ torch.linalg.inv(H @ H.T + N / K * LAM * torch.eye(len(H), dtype=H.dtype))
    total = ((W @ H - torch.tensor(Y)) ** 2).sum() + 0.2 * (H**2).sum() + 0.7 * ((H - torch.tensor(H0)) ** 2).sum()
    (total / (2 * N) + LAM * (W**2).sum() / (2 * K)).backward()
    expected = paper.feature_gradient(H.detach().numpy(), H0, Y, LAM, 0.2, 0.7)
    assert np.allclose(N * H.grad.numpy(), expected, atol=1e-12)


def test_minimum_against_lbfgs():
    H0, Y, _ = instance()
    W, H = paper.minimise(H0, Y, LAM, 0.1, 0.4, tol=1e-12)
    assert np.abs(paper.feature_gradient(H, H0, Y, LAM, 0.1, 0.4)).max() < 1e-9

    def objective(values):
        features = values.reshape(H.shape)
        return paper.loss(paper.best_classifier(features, Y, LAM), features, H0, Y, LAM, 0.1, 0.4)

    found = minimize(
        objective, H0.ravel(), method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "maxfun": 10**6}
    )
    assert np.isclose(found.fun, paper.loss(W, H, H0, Y, LAM, 0.1, 0.4), rtol=1e-6)


def test_minimising_by_turns_never_raises_the_loss():
    H0, Y, _ = instance()
    values = []
    for rounds in range(1, 8):
        W, H = paper.minimise(H0, Y, LAM, 0.1, 0.4, tol=1e-15, max_rounds=rounds)
        values.append(paper.loss(W, H, H0, Y, LAM, 0.1, 0.4))
    assert (np.diff(values) <= 1e-15).all()


def test_collapsed_minimum_is_one():
    """The gradient is 0, the features of a class coincide, and no other start ends lower."""
    _, Y, rng = instance()
    H = paper.collapsed_minimum(3, 4, 5, LAM, 0.1, rng)
    assert np.abs(paper.feature_gradient(H, H, Y, LAM, 0.1)).max() < 1e-12
    within, between = paper.variability(H, 3)
    assert within < 1e-25
    assert between > 0.1
    value = paper.loss(paper.best_classifier(H, Y, LAM), H, H, Y, LAM, 0.1, 0.0)
    W, other = paper.minimise(rng.normal(size=H.shape), Y, LAM, 0.1, 0.0, tol=1e-12)
    assert np.isclose(paper.loss(W, other, other, Y, LAM, 0.1, 0.0), value, rtol=1e-8)
    assert np.allclose(other.T @ other, H.T @ H, atol=1e-6)


def test_flow_shrinks_the_part_within_the_classes():
    """One Euler step: H_w <- (I - step W^T W) H_w, and the ratio of the traces falls in every step."""
    H0, Y, _ = instance()
    first, second, *_ = paper.central_path_flow(H0, Y, LAM, step=0.01, steps=400, every=1)
    assert np.array_equal(first, H0)

    def within(H):
        return H - np.repeat(H.reshape(5, 3, 4).mean(axis=2), 4, axis=1)

    W = paper.best_classifier(H0, Y, LAM)
    assert np.allclose(within(second), (np.eye(5) - 0.01 * W.T @ W) @ within(H0))
    path = paper.central_path_flow(H0, Y, LAM, step=0.01, steps=400, every=1)
    ratios = paper.ratios(np.array([paper.variability(H, 3) for H in path]))
    assert (np.diff(ratios) < 0).all()
    assert len(paper.central_path_flow(H0, Y, LAM, steps=40, every=10)) == 5


def test_first_order_change_against_finite_differences():
    _, Y, rng = instance()
    H = paper.collapsed_minimum(3, 4, 5, LAM, 0.1, rng)
    delta = rng.normal(size=H.shape)
    ends = [paper.minimise(H + sign * 1e-4 * delta, Y, LAM, 0.1, 0.8, tol=1e-14)[1] for sign in (1, -1)]
    change = paper.first_order_change(H, delta, Y, LAM, 0.1, 0.8)
    assert np.allclose(change, (ends[0] - ends[1]) / 2e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.best_classifier(np.full((2, 4), np.nan), paper.one_hot(2, 2), LAM), "H"),
        (lambda: paper.best_classifier(np.zeros((2, 4)), paper.one_hot(2, 2), 0.0), "lam_W"),
        (lambda: paper.one_hot(1, 3), "n_classes"),
        (lambda: paper.one_hot(3, 0), "n"),
        (lambda: paper.central_path_flow(np.zeros((2, 4)), paper.one_hot(2, 2), LAM, step=0), "step"),
        (lambda: paper.central_path_flow(np.zeros((2, 4)), paper.one_hot(2, 2), LAM, steps=0), "steps"),
        (lambda: paper.minimise(np.zeros(4), paper.one_hot(2, 2), LAM, 0.1, 0.1), "H0"),
        (lambda: paper.minimise(np.zeros((2, 4)), paper.one_hot(2, 2), LAM, 0.0, 0.0), "lam_H \\+ beta"),
        (lambda: paper.collapsed_minimum(3, 4, 2, LAM, LAM, np.random.default_rng(0)), "d"),
        (lambda: paper.collapsed_minimum(3, 4, 5, 2.0, 2.0, np.random.default_rng(0)), "lam_W"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}"):
        call()


SLIPS = {
    "lambda_W without n in the ridge": ("n * lam_W * np.eye(len(H)), H @ Y.T)", "lam_W * np.eye(len(H)), H @ Y.T)"),
    "tie forgotten in the gradient": ("+ lam_H * H + beta * (H - H0)\n", "+ lam_H * H\n"),
    "tie forgotten in the features": ("W.T @ Y + beta * H0)", "W.T @ Y)"),
    "residual dropped from the derivative of W": ("(W @ dH @ H.T + residual @ dH.T)", "(W @ dH @ H.T)"),
    "length of the collapsed features": ("np.sqrt(s * np.sqrt(lam_W / lam_H))", "np.sqrt(s * np.sqrt(lam_H / lam_W))"),
}
CATCHES = {
    "lambda_W without n in the ridge": ["test_best_classifier_is_the_best"],
    "tie forgotten in the gradient": ["test_feature_gradient_against_automatic_differentiation"],
    "tie forgotten in the features": ["test_minimum_against_lbfgs"],
    "residual dropped from the derivative of W": ["test_first_order_change_against_finite_differences"],
    "length of the collapsed features": ["test_collapsed_minimum_is_one"],
}
