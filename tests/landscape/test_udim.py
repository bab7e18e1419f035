"""Worst-case images against finite differences, moments against single gradients, training against a loop."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from paperlab.landscape import udim as paper
from paperlab.tools.per_sample import per_sample_gradients

WIDTHS = (3, 6, 5, 4)


def problem(k: int = 1, n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    X, y = torch.tensor(rng.normal(size=(k, n, 3))), torch.tensor(rng.integers(0, 4, (k, n)))
    return X, y, torch.tensor(paper.random_weights(WIDTHS, k, rng))


def module(w):
    """The same network as layers of torch."""
    layers = [torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)]
    model = torch.nn.Sequential(*layers).double()
    torch.nn.utils.vector_to_parameters(w, model.parameters())
    return model


def loss_and_sharpness(w, X, y, rho: float) -> float:
    """The objective of the images, from modules and autograd."""
    model = module(w)
    loss = cross_entropy(model(X), y)
    g = torch.autograd.grad(loss, list(model.parameters()))
    return float(loss.detach() + rho * torch.cat([each.flatten() for each in g]).norm())


def variances_by_hand(w, X, moved, y):
    """Mean squares around the mean gradient of X, one gradient of the last layer an image."""
    model = module(w)
    g, other = (per_sample_gradients(model[-1], cross_entropy, model[:-1](each).detach(), y) for each in (X, moved))
    mu = g.mean(dim=0)
    return ((g - mu) ** 2).mean(dim=0), ((other - mu) ** 2).mean(dim=0), other


def inconsistency_by_hand(w, X, moved, y) -> float:
    V, V_moved, other = variances_by_hand(w, X, moved, y)
    middle = (V + V_moved) / 2
    apart = (((V - middle) ** 2).mean() + ((V_moved - middle) ** 2).mean()) / 2
    # 20 weights and 4 biases
    return float(
        apart.detach() + (other[:, :20] ** 2).sum(dim=1).mean() / 20 + (other[:, 20:] ** 2).sum(dim=1).mean() / 4
    )


def test_network_and_loss_against_modules():
    X, y, w = problem(k=2)
    for k in range(2):
        features, z = paper.network(w[k], X[k], WIDTHS)
        assert torch.allclose(z, module(w[k])(X[k]))
        assert torch.allclose(features, module(w[k])[:-1](X[k]))
        assert torch.isclose(paper.mean_loss(w, X, y, WIDTHS)[k], cross_entropy(z, y[k]))


def test_worst_case_against_finite_differences():
    """Each image moves by rho_x along the gradient of loss and sharpness."""
    X, y, w = problem(n=4)
    moved, g = paper.worst_case_inputs(w, X, y, WIDTHS, 0.7, 0.3)
    assert torch.allclose((moved - X).norm(dim=-1), torch.tensor(0.3).double())
    for i in range(4):
        slopes = []
        for j in range(3):
            step = torch.zeros_like(X[0])
            step[i, j] = 1e-6
            up, down = (loss_and_sharpness(w[0], X[0] + sign * step, y[0], 0.7) for sign in (1, -1))
            slopes.append((up - down) / 2e-6)
        slope = torch.tensor(slopes, dtype=torch.float64)
        assert torch.allclose(moved[0, i] - X[0, i], 0.3 * slope / slope.norm(), atol=1e-6)
    model = module(w[0])
    expected = torch.autograd.grad(cross_entropy(model(X[0]), y[0]), list(model.parameters()))
    assert torch.allclose(g[0], torch.cat([each.flatten() for each in expected]))


def test_no_other_direction_is_worse():
    X, y, w = problem(n=6)
    moved, _ = paper.worst_case_inputs(w, X, y, WIDTHS, 0.05, 1e-3)
    worst = loss_and_sharpness(w[0], moved[0], y[0], 0.05)
    directions = np.random.default_rng(1).normal(size=(200, 6, 3))
    for each in torch.tensor(1e-3 * directions / np.linalg.norm(directions, axis=-1, keepdims=True)):
        assert loss_and_sharpness(w[0], X[0] + each, y[0], 0.05) < worst


def test_distance_of_each_network():
    X, y, w = problem(k=2, n=5)
    moved, _ = paper.worst_case_inputs(w, X, y, WIDTHS, 0.1, torch.tensor([0.2, 0.6]).double()[:, None, None])
    for k, distance in enumerate((0.2, 0.6)):
        alone, _ = paper.worst_case_inputs(w[k : k + 1], X[k : k + 1], y[k : k + 1], WIDTHS, 0.1, distance)
        assert torch.allclose(moved[k], alone[0])


def test_moments_against_single_gradients():
    X, y, w = problem(k=2)
    moved = X + 0.5
    both = [paper.head_moments(*paper.network(w, each, WIDTHS), y) for each in (X, moved)]
    found, inconsistency = paper.variances(*both), paper.inconsistency(w, X, moved, y, WIDTHS)
    for k in range(2):
        expected = variances_by_hand(w[k], X[k], moved[k], y[k])
        for each, right in zip(found, expected[:2], strict=True):
            assert torch.allclose(each[k, :, :-1].flatten(), right[:20])
            assert torch.allclose(each[k, :, -1], right[20:])
        assert np.isclose(float(inconsistency[k]), inconsistency_by_hand(w[k], X[k], moved[k], y[k]))


def test_images_that_did_not_move_match():
    X, y, w = problem()
    moments = paper.head_moments(*paper.network(w, X, WIDTHS), y)
    assert float(paper.mismatch(moments, moments)) < 1e-30
    assert float(paper.inconsistency(w, X, X, y, WIDTHS)) > 1e-3
    assert torch.equal(paper.inconsistency(w, X, X, y, WIDTHS), paper.SIZE_ONLY(w, X, X, y, WIDTHS))


def by_hand(w, X, y, lam, kind, steps):
    """Adam on SAM and a penalty, for one network, with gradients of modules and numerical care of nothing."""
    rng, first, second, queue = np.random.default_rng(7), torch.zeros_like(w), torch.zeros_like(w), []
    for step in range(1, steps + 1):
        if len(queue) < 50:
            queue = list(rng.permutation(len(y)))
        rows, queue = queue[:50], queue[50:]
        x, labels = X[rows], y[rows]
        u = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(paper.network(u, x, WIDTHS)[1], labels), u)
        v = (w + 0.05 * g / g.norm()).requires_grad_()
        (update,) = torch.autograd.grad(cross_entropy(paper.network(v, x, WIDTHS)[1], labels), v)
        moved = paper.worst_case_inputs(w[None], x[None], labels[None], WIDTHS, 0.05, 0.5)[0][0]
        u = w.clone().requires_grad_()
        if kind == "cross-entropy":
            penalty = cross_entropy(paper.network(u, moved, WIDTHS)[1], labels)
        else:
            penalty = paper.inconsistency(u, x, moved, labels, WIDTHS)
        update = update + lam * torch.autograd.grad(penalty, u)[0]
        first, second = 0.9 * first + 0.1 * update, 0.999 * second + 0.001 * update**2
        w = w - 0.01 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
    return w.detach()


def test_training_against_a_loop():
    """Networks of a stack, each with its own weight of the penalty, train as if alone."""
    X, y, w = problem(k=2, n=120)
    lam = torch.tensor([0.0, 2.0]).double()
    end = paper.train(X, y, w, WIDTHS, np.random.default_rng(7), lam=lam, steps=6, lr=0.01)
    for k in range(2):
        assert torch.allclose(end[k], by_hand(w[k], X[k], y[k], float(lam[k]), "", 6))
    end = paper.train(X, y, w, WIDTHS, np.random.default_rng(7), lam=2.0, penalty=paper.moved_loss, steps=6, lr=0.01)
    assert torch.allclose(end[1], by_hand(w[1], X[1], y[1], 2.0, "cross-entropy", 6))
    end = paper.train(X, y, w, WIDTHS, np.random.default_rng(7), penalty=None, steps=6, lr=0.01)
    assert torch.allclose(end[0], by_hand(w[0], X[0], y[0], 0.0, "", 6))


def test_random_moves_are_no_worst_case():
    X, y, w = problem(n=120)
    ends = [
        paper.train(X, y, w, WIDTHS, np.random.default_rng(7), blind=blind, steps=4)
        for blind in (None, np.random.default_rng(1), np.random.default_rng(1), np.random.default_rng(2))
    ]
    assert torch.equal(ends[1], ends[2])
    assert not torch.allclose(ends[1], ends[3])
    assert not torch.allclose(ends[0], ends[1])


def test_draws_are_disjoint():
    X, y, new_X, new_y = paper.draws(2, 100, 30, np.random.default_rng(5))
    assert [each.shape for each in (X, y, new_X, new_y)] == [(2, 100, 64), (2, 100), (2, 30, 64), (2, 30)]
    assert torch.cdist(new_X[0], X[0]).min() > 0
    assert not torch.equal(X[0], X[1])


def test_the_answer_of_the_experiment():
    explorer = paper.explorer()
    gains = {}
    for domain in paper.DOMAINS[1:]:
        with_udim, with_sam = (
            explorer.compute(explorer.context, lam, 0.5, domain, 0)["accuracy"][2] for lam in (3.0, 0.0)
        )
        gains[domain] = with_udim - with_sam
    (solution,) = [each.solution() for each in paper.exercises() if each.id == "helped"]
    assert max(gains, key=gains.get) == solution
    assert gains[solution] > 10


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.network(torch.zeros(7), torch.zeros(2, 3), (3, 2)), "w"),
        (lambda: paper.worst_case_inputs(problem()[2], *problem()[:2], WIDTHS, 0.0, 0.5), "rho"),
        (lambda: paper.worst_case_inputs(problem()[2], *problem()[:2], WIDTHS, 0.05, -0.5), "rho_x"),
        (lambda: paper.worst_case_inputs(problem()[2], *problem()[:2], WIDTHS, 0.05, float("nan")), "rho_x"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), lam=-1.0), "lam"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), steps=0), "steps"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), lr=0.0), "lr"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), rho=-0.1), "rho"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "sharpness left out": ("(loss + rho * g.norm(dim=-1)).sum()", "loss.sum()"),
    "downhill": ("X + rho_x * normalize(upward", "X - rho_x * normalize(upward"),
    "moved images centred at their own mean": (
        "square_moved - 2 * mu * mean_moved + mu**2",
        "square_moved - mean_moved**2",
    ),
    "label forgotten": ("z.softmax(dim=-1) - one_hot(y, z.shape[-1])", "z.softmax(dim=-1)"),
    "no bias correction": ("first / (1 - 0.9**step)", "first"),
}
CATCHES = {
    "sharpness left out": ["test_worst_case_against_finite_differences"],
    "downhill": ["test_worst_case_against_finite_differences", "test_no_other_direction_is_worse"],
    "moved images centred at their own mean": ["test_moments_against_single_gradients"],
    "label forgotten": ["test_moments_against_single_gradients"],
    "no bias correction": ["test_training_against_a_loop"],
}
