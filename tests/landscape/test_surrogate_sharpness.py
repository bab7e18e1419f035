"""Gradients against torch, the gradient of a norm against double backpropagation, training against torch's Adam."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from paperlab.landscape import surrogate_sharpness as paper

WIDTHS = (3, 5, 4, 1)


def problem(seed: int = 0, k: int = 2, n: int = 7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(k, n, 3)), rng.normal(size=(k, n)), paper.random_weights(WIDTHS, k, rng)


def torch_network(w, X):
    """The same network from torch's layers, with the parameters of one surrogate."""
    z, place = X, 0
    for layer, (n_in, n_out) in enumerate(pairwise(WIDTHS)):
        A, b = w[place : place + n_in * n_out], w[place + n_in * n_out : place + n_in * n_out + n_out]
        z, place = nn.functional.linear(z, A.view(n_out, n_in), b), place + n_in * n_out + n_out
        z = z if layer == len(WIDTHS) - 2 else torch.tanh(z)
    return z[:, 0]


def torch_penalty(w, X):
    """The norm of the gradient of the mean prediction, differentiable."""
    (h,) = torch.autograd.grad(torch_network(w, X).mean(), w, create_graph=True)
    return h.norm()


def test_gradients_against_autograd():
    X, c, w = problem()
    by_w, by_X = paper.backward(w, paper.forward(w, X, WIDTHS), c, WIDTHS)
    for i in range(2):
        wi, Xi = torch.tensor(w[i], requires_grad=True), torch.tensor(X[i], requires_grad=True)
        prediction = torch_network(wi, Xi)
        assert np.allclose(paper.predict(w, X, WIDTHS)[i], prediction.detach(), rtol=1e-12)
        expected = torch.autograd.grad((torch.tensor(c[i]) * prediction).sum(), (wi, Xi))
        assert np.allclose(by_w[i], expected[0], rtol=1e-10, atol=1e-14)
        assert np.allclose(by_X[i], expected[1], rtol=1e-10, atol=1e-14)


def test_gradient_norm_against_autograd():
    X, _, w = problem(1)
    expected = [
        float(torch_penalty(torch.tensor(w[i], requires_grad=True), torch.tensor(X[i])).detach()) for i in (0, 1)
    ]
    assert np.allclose(paper.gradient_norm(w, X, WIDTHS), expected, rtol=1e-12)


def test_gradient_of_the_norm_against_double_backpropagation():
    """The error is of first order in r."""
    X, _, w = problem(2)
    expected = []
    for i in range(2):
        wi = torch.tensor(w[i], requires_grad=True)
        expected.append(torch.autograd.grad(torch_penalty(wi, torch.tensor(X[i])), wi)[0].numpy())
    errors = []
    for r in (1e-2, 1e-3, 1e-4):
        found = paper.norm_gradient(lambda w: paper.mean_gradient(w, X, WIDTHS), w, r)
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[2] < 1e-3
    assert np.allclose(np.divide(errors[1:], errors[:-1]), 0.1, rtol=0.1)


def test_quadratics_and_linear_functions():
    """For a quadratic G the difference is exact for any r; for a linear one the norm is constant."""
    rng = np.random.default_rng(3)
    A, b, w = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    A = A + A.T
    h = A @ w + b
    for r in (1e-3, 0.1, 10.0):
        assert np.allclose(paper.norm_gradient(lambda w: A @ w + b, w, r), A @ h / np.linalg.norm(h))
    designs = rng.normal(size=(6, 2))
    line = rng.normal(size=3)
    assert np.isclose(paper.gradient_norm(line, designs, (2, 1)), np.linalg.norm([*designs.mean(axis=0), 1]))
    assert np.allclose(paper.norm_gradient(lambda w: paper.mean_gradient(w, designs, (2, 1)), line, 0.1), 0, atol=1e-14)
    assert np.array_equal(paper.norm_gradient(lambda w: 0 * w, w, 0.1), np.zeros(4))


def fit(**options):
    X, y, w = problem(4, n=60)
    return X, y, w, paper.fit_surrogate(X, y, w, WIDTHS, np.random.default_rng(5), epochs=3, **options)


def reference(X, y, w, gradient, multiplier=0.0, eta=0.0, epsilon=0.5, rho=0.2):
    """Training of the first surrogate with torch's Adam; ``gradient(w, X, y, multiplier)``, the same batches."""
    rng, parameter = np.random.default_rng(5), torch.tensor(w[0], requires_grad=True)
    rule = torch.optim.Adam([parameter], lr=5e-3)
    for _ in range(3):
        for rows in np.split(rng.permutation(60), [50]):
            batch, targets = torch.tensor(X[0, rows]), torch.tensor(y[0, rows])
            parameter.grad = gradient(parameter, batch, targets, multiplier)
            sharpness = rho * float(torch_penalty(parameter, batch).detach())
            rule.step()
            multiplier = max(0.0, multiplier + eta * (sharpness - epsilon))
    return parameter.detach().numpy(), multiplier, sharpness


def loss_gradient(w, X, y, multiplier=0.0):
    return torch.autograd.grad(((torch_network(w, X) - y) ** 2).mean(), w)[0]


def test_penalised_training_against_torch():
    """With double backpropagation for the penalty, and a step r that is small enough."""

    def gradient(w, X, y, multiplier):
        return loss_gradient(w, X, y) + 0.3 * multiplier * torch.autograd.grad(torch_penalty(w, X), w)[0]

    X, y, w, found = fit(lam=0.4, rho=0.3, r=1e-6)
    assert np.allclose(found.w[0], reference(X, y, w, gradient, 0.4, rho=0.3)[0], atol=1e-5)
    X, y, w, found = fit(lam=0.4, rho=0.3, r=1e-6, eta=0.5, epsilon=0.2)
    end, multiplier, sharpness = reference(X, y, w, gradient, 0.4, 0.5, 0.2, 0.3)
    assert np.allclose(found.w[0], end, atol=1e-5)
    assert np.isclose(found.lam[-1, 0], multiplier, rtol=1e-4)
    assert np.isclose(found.sharpness[-1, 0], sharpness, rtol=1e-4)


def test_plain_and_sharpness_aware_training_against_torch():
    def sam(w, X, y, multiplier):
        g = loss_gradient(w, X, y)
        return loss_gradient((w + 0.1 * g / g.norm()).detach().requires_grad_(), X, y)

    X, y, w, found = fit()
    assert np.allclose(found.w[0], reference(X, y, w, loss_gradient)[0], rtol=1e-8)
    X, y, w, found = fit(sam=0.1)
    assert np.allclose(found.w[0], reference(X, y, w, sam)[0], rtol=1e-8)


def test_the_multiplier_is_never_negative():
    found = fit(lam=0.01, eta=1.0, epsilon=100.0)[-1]
    assert (found.lam == 0).all()
    assert (fit(lam=0.01, eta=1.0, epsilon=1e-3)[-1].lam > 0.01).all()


def test_climbing():
    """A linear surrogate rises along its slope up to the edge of the box."""
    w = np.array([[0.5, -0.1, 0.0, 2.0]])
    found = paper.climb(w, np.zeros((1, 2, 3)), (3, 1), steps=100, lr=0.05)
    assert np.allclose(found, [1.0, -0.5, 0.0])


def test_offline_data():
    X, y, mean, std, box = paper.offline_data(np.random.default_rng(0))
    assert X.shape == (200, 6)
    assert np.allclose(y * std + mean, paper.true_value(X))
    assert np.isclose(y.mean(), 0)
    assert np.isclose(y.std(), 1)
    assert (np.diff(y) >= 0).all()
    assert 0.55 < (paper.true_value(box) > paper.true_value(X).max()).mean() < 0.8
    assert np.isclose(paper.true_value(np.full(6, 0.6)), 1.8 * np.cos(2.4))


X, y, w = problem()
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.predict(w[:, :-1], X, WIDTHS), "w"),
        (lambda: paper.norm_gradient(lambda w: w, w, 0.0), "r"),
        (lambda: paper.fit_surrogate(X[0], y, w, WIDTHS, RNG), "X"),
        (lambda: paper.fit_surrogate(np.full_like(X, np.nan), y, w, WIDTHS, RNG), "X"),
        (lambda: paper.fit_surrogate(X, y[:, :3], w, WIDTHS, RNG), "X"),
        (lambda: paper.fit_surrogate(X, y, w[:1], WIDTHS, RNG), "X"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, lam=-0.1), "lam"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, eta=np.nan), "lam"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, sam=-1.0), "lam"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, epsilon=0.0), "epsilon"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, rho=0.0), "rho"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, lr=np.inf), "lr"),
        (lambda: paper.fit_surrogate(X, y, w, WIDTHS, RNG, epochs=0), "epochs"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "the step does not have length r": ("* h / length) - h", "* h) - h"),
    "sum of predictions": ("np.full_like(values[-1][..., 0], 1 / X.shape[-2])", "np.ones_like(values[-1][..., 0])"),
    "the radius is left out of the penalty": ("g + rho * lam[:, None]", "g + lam[:, None]"),
    "a negative multiplier": ("np.maximum(0, lam + eta * (sharpness - epsilon))", "lam + eta * (sharpness - epsilon)"),
    "the multiplier goes the wrong way": ("eta * (sharpness - epsilon)", "eta * (epsilon - sharpness)"),
    "no derivative of tanh": ("slope * (1 - value**2)", "slope * 1.0"),
    "SAM steps downhill first": ("w + np.stack([sam_perturbation", "w - np.stack([sam_perturbation"),
}
CATCHES = {
    "the step does not have length r": [
        "test_gradient_of_the_norm_against_double_backpropagation",
        "test_quadratics_and_linear_functions",
    ],
    "sum of predictions": ["test_gradient_norm_against_autograd"],
    "the radius is left out of the penalty": ["test_penalised_training_against_torch"],
    "a negative multiplier": ["test_the_multiplier_is_never_negative"],
    "the multiplier goes the wrong way": ["test_penalised_training_against_torch"],
    "no derivative of tanh": ["test_gradients_against_autograd"],
    "SAM steps downhill first": ["test_plain_and_sharpness_aware_training_against_torch"],
}
