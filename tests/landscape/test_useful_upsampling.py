"""Gradients against torch, weights against duplicated rows, growth against its formula, k-means against all splits."""

from itertools import product

import numpy as np
import pytest
import torch

from paperlab.landscape import useful_upsampling as paper


def problem(seed: int = 0, n: int = 8, m: int = 3, d: int = 4):
    rng = np.random.default_rng(seed)
    X, y, fast = paper.feature_data(rng, n, d=d)
    return X, y, fast, 0.5 * rng.normal(size=(m, d))


def torch_gradient(W, X, y, weights):
    W = torch.tensor(W, requires_grad=True)
    f = torch.einsum("npd,md->npm", torch.tensor(X), W).pow(3).sum((1, 2))
    losses = torch.nn.functional.softplus(-torch.tensor(y) * f)
    (gradient,) = torch.autograd.grad((torch.tensor(weights) * losses).sum() / weights.sum(), W)
    return f.detach().numpy(), gradient.numpy()


def test_gradient_descent_against_autograd():
    X, y, _, W = problem()
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    run = paper.train(X, y, W, lr=0.3, steps=10, weights=weights)
    for step in range(11):
        f, gradient = torch_gradient(W, X, y, weights)
        if step % 5 == 0:
            assert np.allclose(run.W[step // 5], W, rtol=1e-10)
            assert np.allclose(run.f[step // 5], f, rtol=1e-10)
            assert np.allclose(paper.network(W, X), f, rtol=1e-10)
        W = W - 0.3 * gradient


def test_sam_against_autograd():
    """The gradient at the point that is uphill by rho."""
    X, y, _, W = problem(1)
    ones = np.ones(len(y))
    run = paper.train(X, y, W, lr=0.3, steps=5, rho=0.2)
    for _ in range(5):
        g = torch_gradient(W, X, y, ones)[1]
        W = W - 0.3 * torch_gradient(W + 0.2 * g / np.linalg.norm(g), X, y, ones)[1]
    assert np.allclose(run.W[-1], W, rtol=1e-10)


def test_weight_two_is_a_duplicated_row():
    X, y, fast, W = problem(2)
    weights = 1.0 + ~fast
    twice = np.concatenate([np.arange(len(y)), np.flatnonzero(~fast)])
    weighted, duplicated = paper.train(X, y, W, weights=weights), paper.train(X[twice], y[twice], W)
    assert np.allclose(weighted.W, duplicated.W, rtol=1e-9)
    assert np.allclose(paper.train(X, y, W, weights=3 * weights).W, weighted.W, rtol=1e-9)


def test_growth_of_one_feature():
    """One filter, one patch: the closed solution of da/dt = 3/2 beta^3 a^2, while outputs are small."""
    beta, a, lr, steps = 0.7, 0.05, 1e-3, 5000
    X, y = np.zeros((2, 1, 3)), np.array([-1.0, 1.0])
    X[:, 0, paper.SLOW] = beta * y
    W = np.zeros((1, 3))
    W[0, paper.SLOW] = a
    found = paper.strengths(paper.train(X, y, W, lr=lr, steps=steps).W)[:, paper.SLOW]
    expected = 1 / (1 / a - 1.5 * beta**3 * lr * 5 * np.arange(len(found)))
    assert np.allclose(found, expected, rtol=1e-3)
    assert found[-1] > 1.1 * a


@pytest.mark.parametrize("seed", range(4))
def test_two_means_against_all_splits(seed):
    """Two clouds in the plane: the split with the smallest sum of squares, found by trying all."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(9, 2)) + 3 * (rng.permutation(9) < 3)[:, None]
    cost = lambda c: sum(((points[part] - points[part].mean(axis=0)) ** 2).sum() for part in (c, ~c))  # noqa: E731
    splits = [np.array((False, *rest)) for rest in product((False, True), repeat=8) if any(rest)]
    best = min(splits, key=cost)
    found = paper.two_means(points)
    assert (found == best).all() or (found == ~best).all()


def test_the_group_with_the_larger_mean_loss():
    """Outputs near 0 are late if the others are right, early if the others are wrong; class by class."""
    f = np.array([0.0, 0.1, 2.0, 2.1, 2.2, 0.0, 0.1, 2.0, 2.1, 2.2])
    y = np.repeat([1.0, -1.0], 5)
    late = paper.slow_examples(f[:, None], y, paper.example_losses(f, y))
    assert late.tolist() == [True, True, False, False, False, False, False, True, True, True]
    # The late ones are few: by the sum of their losses they would not be
    losses = np.array([0.7, 0.6, 0.6, 0.6, 0.6])
    late = paper.slow_examples(np.array([[0.0], [5.0], [5.1], [5.2], [5.3]]), np.zeros(5), losses)
    assert late.tolist() == [True, False, False, False, False]


def test_when_and_how_often():
    X, y, fast = paper.feature_data(np.random.default_rng(3), 60)
    run = paper.train(X, y, paper.start(np.random.default_rng(3)))
    losses = np.log(1 + np.exp(-y * run.f)).mean(axis=1)
    record = paper.separation(run, y)
    assert losses[record] <= losses[0] / 2 < losses[record - 1]
    assert np.array_equal(paper.useful_weights(run, y), np.where(fast, 1.0, 2.0))
    with pytest.raises(ValueError, match="^run"):
        paper.separation(paper.Run(run.W[:2], run.f[:2]), y)


def test_data_and_start():
    rng = np.random.default_rng(0)
    X, y, fast = paper.feature_data(rng, 50, slow=0.3, share=0.7, noise=0.1, d=6)
    assert y.sum() == 0
    assert fast.sum() == 35
    assert np.allclose((X * y[:, None, None]).sum(axis=1)[:, :2], np.stack([fast, np.full(50, 0.3)], axis=1))
    assert np.allclose(X[:, :2, 2:], 0)
    assert 0.07 < X[:, 2, 2:].std() < 0.13
    assert np.allclose(paper.strengths(paper.start(rng, 12, 6, 0.1)), 0.2)


def test_error_is_that_of_examples_without_the_fast_feature():
    new = paper.feature_data(np.random.default_rng(1), 40, noise=1e-9)
    W = np.zeros((1, 10))
    W[0, paper.FAST], W[0, paper.SLOW] = 1.0, -0.5
    assert paper.error(W, new) == 100.0
    W[0, paper.SLOW] = 0.5
    assert paper.error(W, new) == 0.0


X, y, _, W = problem()
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.feature_data(RNG, 10, share=1.0), "share"),
        (lambda: paper.feature_data(RNG, 10, slow=-0.6), "slow"),
        (lambda: paper.feature_data(RNG, 10, noise=np.nan), "noise"),
        (lambda: paper.feature_data(RNG, 1), "n"),
        (lambda: paper.feature_data(RNG, 10, d=2), "d"),
        (lambda: paper.start(RNG, scale=0.0), "scale"),
        (lambda: paper.start(RNG, m=9), "m"),
        (lambda: paper.train(X[0], y, W), "X"),
        (lambda: paper.train(np.full_like(X, np.nan), y, W), "X"),
        (lambda: paper.train(X, y[:3], W), "X"),
        (lambda: paper.train(X, y, W[:, :2]), "X"),
        (lambda: paper.train(X, np.abs(y), W), "y"),
        (lambda: paper.train(X, y, W, lr=0.0), "lr"),
        (lambda: paper.train(X, y, W, steps=7), "steps"),
        (lambda: paper.train(X, y, W, rho=-0.1), "steps"),
        (lambda: paper.train(X, y, W, weights=-np.ones(8)), "weights"),
        (lambda: paper.two_means(np.ones((4, 1))), "outputs"),
        (lambda: paper.slow_examples(np.ones((4, 1)), np.ones(4), np.ones(3)), "losses"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "no factor 3": ("c = -3 * q * y", "c = -q * y"),
    "SAM steps downhill first": ("W + sam_perturbation(gradient, rho)", "W - sam_perturbation(gradient, rho)"),
    "the early group counts twice": ("found[rows] = cluster == larger", "found[rows] = cluster != larger"),
    "classes are not kept apart": ("for label in np.unique(classes):", "for label in [classes]:"),
    "weights do not sum to 1": ('positive("lr", lr), weights / weights.sum()', 'positive("lr", lr), weights / len(y)'),
    "errors of all examples": ("new.X[~new.fast]) * new.y[~new.fast]", "new.X) * new.y"),
}
CATCHES = {
    "no factor 3": ["test_gradient_descent_against_autograd", "test_growth_of_one_feature"],
    "SAM steps downhill first": ["test_sam_against_autograd"],
    "the early group counts twice": ["test_the_group_with_the_larger_mean_loss"],
    "classes are not kept apart": ["test_the_group_with_the_larger_mean_loss"],
    "weights do not sum to 1": ["test_gradient_descent_against_autograd", "test_weight_two_is_a_duplicated_row"],
    "errors of all examples": ["test_error_is_that_of_examples_without_the_fast_feature"],
}
