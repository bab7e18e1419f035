"""The formulas against exact Hessians, gradient descent against a loop, the single-sample maximum against ascent."""

import numpy as np
import pytest
import torch

from paperlab.landscape import adaptive_sharpness as paper
from paperlab.tools.sharpness import average_sharpness, worst_case_sharpness


def network(seed: int = 0, n: int = 6, d: int = 4):
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(2, d))
    X = rng.normal(size=(n, d))
    return u, v, X, X @ (u * v)


def test_formulas_against_the_hessian():
    """rho^2 / 2 times the trace of the Hessian at weights that fit; each entry times w_i^2 if adaptive."""
    u, v, X, y = network()
    w = torch.tensor(np.concatenate([u, v]))
    diagonal = torch.autograd.functional.hessian(paper.diagonal_loss(X, y), w).diagonal().numpy()
    assert np.isclose(paper.diagonal_sharpness(u, v, X, 0.3), 0.045 * diagonal.sum())
    # The two halves of the adaptive trace are equal, which is where the 1/2 goes.
    assert np.isclose(paper.diagonal_sharpness(u, v, X, 0.3, adaptive=True), 0.045 * (diagonal * w.numpy() ** 2).sum())


def test_adaptive_formula_is_blind_to_rescaling():
    u, v, X, _ = network()
    same = paper.diagonal_sharpness(3 * u, v / 3, X, 0.1, adaptive=True)
    assert np.isclose(same, paper.diagonal_sharpness(u, v, X, 0.1, adaptive=True), rtol=1e-12)
    assert paper.diagonal_sharpness(3 * u, v / 3, X, 0.1) > 1.2 * paper.diagonal_sharpness(u, v, X, 0.1)


def test_plain_formula_is_at_least_a_one_norm():
    u, v, X, _ = network()
    Sigma, beta = (X**2).mean(axis=0), u * v
    least = 0.01 * (Sigma * np.abs(beta)).sum()
    assert paper.diagonal_sharpness(u, v, X, 0.1) >= least
    root = np.sqrt(np.abs(beta))
    assert np.isclose(paper.diagonal_sharpness(root, np.sign(beta) * root, X, 0.1), least)


def test_formula_has_leading_axes():
    u, v, X, _ = network()
    many = paper.diagonal_sharpness(np.stack([u, 2 * u]), np.stack([v, v]), X, 0.1, adaptive=True)
    assert np.isclose(many[1], 4 * many[0])


def test_single_sample_maximum_against_ascent():
    """For one sample, projected ascent finds the same rise."""
    rng = np.random.default_rng(1)
    w, X, y = rng.normal(size=3), rng.normal(size=(5, 3)), np.array([1.0, -1, 1, 1, -1])
    for adaptive, radius in ((False, 0.2), (True, 0.2 * np.linalg.norm(w))):
        rises = [
            worst_case_sharpness(paper.logistic_loss(X[i : i + 1], y[i : i + 1]), torch.tensor(w), radius, n_steps=60)
            for i in range(5)
        ]
        assert np.isclose(paper.single_sample_sharpness(w, X, y, 0.2, adaptive=adaptive), np.mean(rises), rtol=1e-4)


def test_normalised_logits_have_no_scale():
    rng = np.random.default_rng(2)
    X, y, w = rng.normal(size=(9, 4)), rng.choice([-1.0, 1.0], size=9), torch.tensor(rng.normal(size=4))
    loss = paper.logistic_loss(X, y, normalized=True)
    assert torch.isclose(loss(w), loss(1000 * w))
    z = paper.normalize_logits(torch.tensor(X) @ w)
    assert torch.isclose(z.square().mean(), torch.tensor(1.0, dtype=z.dtype))
    raw = paper.logistic_loss(X, y)(w)
    assert np.isclose(raw.item(), np.logaddexp(0, -y * (X @ w.numpy())).mean())
    same = [average_sharpness(loss, s * w, 0.1, torch.Generator().manual_seed(0), adaptive=True) for s in (1, 50)]
    assert np.isclose(*same, rtol=1e-9)


def test_interpolators_against_automatic_differentiation():
    rng = np.random.default_rng(3)
    X, truth, scales = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 3)), np.array([0.1, 0.7])
    u, v, errors = paper.interpolators(X, truth, scales, lr=0.05, steps=40)
    for r in range(2):
        for k in range(2):
            weights = torch.tensor([scales[k] * np.sqrt(2)] * 3 + [0.0] * 3, requires_grad=True, dtype=torch.float64)
            loss = paper.diagonal_loss(X[r], X[r] @ truth[r])
            for _ in range(40):
                (gradient,) = torch.autograd.grad(loss(weights), weights)
                weights = (weights - 0.05 * gradient).detach().requires_grad_()
            assert np.allclose(weights.detach(), np.concatenate([u[r, k], v[r, k]]), atol=1e-12)
            assert np.isclose(errors[r, k], 2 * loss(weights).item())


def test_small_scales_find_smaller_one_norms():
    rng = np.random.default_rng(4)
    X, truth = rng.normal(size=(1, 8, 20)), np.eye(20)[None, 0] * 2
    u, v, errors = paper.interpolators(X, truth, np.array([0.1, 1.5]), steps=20_000, lr=0.03)
    assert errors.max() < 1e-5
    norms = np.abs(u * v).sum(axis=-1)[0]
    assert norms[0] < norms[1]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.diagonal_sharpness(np.ones(2), np.ones(2), np.ones((3, 2)), 0.0), "rho"),
        (lambda: paper.single_sample_sharpness([[1.0]], np.ones((2, 1)), [1, -1], 0.1), "w"),
        (lambda: paper.single_sample_sharpness([np.nan], np.ones((2, 1)), [1, -1], 0.1), "w"),
        (lambda: paper.single_sample_sharpness([1.0], np.ones(2), [1, -1], 0.1), "X"),
        (lambda: paper.single_sample_sharpness([1.0], np.ones((2, 1)), [1, -1], -0.1), "rho"),
        (lambda: paper.interpolators(np.ones((3, 2)), np.ones(2), np.ones(1)), "X"),
        (lambda: paper.interpolators(np.ones((1, 3, 2)), np.ones((1, 2)), np.ones(1), steps=0), "steps"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "the one half lost in the plain formula": ("(u**2 + v**2) / 2", "(u**2 + v**2)"),
    "adaptive formula without the square": ("terms = (u * v) ** 2 if", "terms = np.abs(u * v) if"),
    "gradients of u and v swapped": ("u, v = u - lr * g * v, v - lr * g * u", "u, v = u - lr * g * u, v - lr * g * v"),
    "sign of the label lost in the loss": ("softplus(-y *", "softplus(y *"),
    "radius not in units of the weights": ("(np.linalg.norm(w) if adaptive else 1.0)", "(1.0 if adaptive else 1.0)"),
    "logits divided by their mean square": ("z / z.square().mean().sqrt()", "z / z.square().mean()"),
}
CATCHES = {
    "the one half lost in the plain formula": [
        "test_formulas_against_the_hessian",
        "test_plain_formula_is_at_least_a_one_norm",
    ],
    "adaptive formula without the square": ["test_formulas_against_the_hessian"],
    "gradients of u and v swapped": ["test_interpolators_against_automatic_differentiation"],
    "sign of the label lost in the loss": ["test_normalised_logits_have_no_scale"],
    "radius not in units of the weights": ["test_single_sample_maximum_against_ascent"],
    "logits divided by their mean square": ["test_normalised_logits_have_no_scale"],
}
