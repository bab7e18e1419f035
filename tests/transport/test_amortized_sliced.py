"""Distances against POT, von Mises-Fisher moments against Bessel functions, attention by loops, moves by formula."""

import numpy as np
import ot
import pytest
import torch
from scipy.special import ive
from scipy.stats import kstest

from paperlab.tools.sliced import fibonacci_directions, projected_w2
from paperlab.transport import amortized_sliced as paper


def clouds(count: int = 4, n: int = 6, d: int = 3, seed: int = 0):
    return tuple(torch.as_tensor(np.random.default_rng(seed).normal(size=(2, count, n, d))))


def network(seed: int = 0, d: int = 3, **options):
    return paper.SelfAttentionAmortizer(d, 4, np.random.default_rng(seed), **options)


def length(kappa: float, d: int) -> float:
    """The mean of mu^T theta: a ratio of Bessel functions."""
    return ive(d / 2, kappa) / ive(d / 2 - 1, kappa)


def test_distance_against_pot():
    X, Y = clouds(d=4)
    theta = torch.as_tensor(np.random.default_rng(1).normal(size=(1, 50, 4)))
    theta = theta / theta.norm(dim=-1, keepdim=True)
    W = paper.sliced_w2(X, Y, theta)
    for x, y, row in zip(X.numpy(), Y.numpy(), W.numpy(), strict=True):
        assert np.isclose(row.mean(), ot.sliced_wasserstein_distance(x, y, projections=theta[0].numpy().T) ** 2)
        assert np.allclose(row, projected_w2(x, y, theta[0].numpy()))


def test_lengths_of_mean_directions():
    """E[mu^T theta] in 2, 3 and 6 dimensions; 3 is coth(kappa) - 1 / kappa."""
    assert np.isclose(length(7.0, 3), 1 / np.tanh(7.0) - 1 / 7.0)
    for d, kappa in ((2, 3.0), (3, 0.5), (3, 10.0), (6, 20.0)):
        mu = torch.as_tensor(paper.random_directions((2,), d, np.random.default_rng(d)))
        theta = paper.sample_vmf(mu, kappa, 20_000, np.random.default_rng(0))
        assert theta.shape == (2, 20_000, d)
        assert torch.allclose(theta.norm(dim=-1), torch.ones(2, 20_000, dtype=theta.dtype))
        assert torch.allclose(theta.mean(dim=1), length(kappa, d) * mu, atol=0.02)


def test_cosines_have_the_right_distribution():
    """The density of w is proportional to exp(kappa w) in 3 dimensions, times (1 - w^2)^((d - 3) / 2) in others."""
    for d, kappa in ((3, 4.0), (5, 4.0)):
        ticks = np.linspace(-1, 1, 20_001)
        mass = np.cumsum(np.exp(kappa * (ticks - 1)) * (1 - ticks**2) ** ((d - 3) / 2))
        w = paper.vmf_cosines(kappa, d, (4000,), np.random.default_rng(0))
        assert kstest(w, lambda at, ticks=ticks, mass=mass: np.interp(at, ticks, mass / mass[-1])).pvalue > 0.01


def test_poles():
    """Locations at the pole of the reflection, and opposite to it."""
    mu = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    theta = paper.sample_vmf(mu, 1000.0, 50, np.random.default_rng(0))
    assert ((theta * mu[:, None]).sum(dim=-1) > 0.97).all()


def test_moved_clouds_in_closed_form():
    """W = (theta^T move)^2, so vDSW^2 is |move|^2 E[w^2] along mu and |move|^2 (1 - E[w^2]) / 2 across it."""
    X, _ = clouds(1, 5)
    move = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    along = 1 - 2 * (1 / np.tanh(10.0) - 0.1) / 10.0
    W = paper.sliced_w2(X, X + move, paper.EVEN[None])
    for mu, expected in (([0.0, 0.0, 1.0], 4 * along), ([0.6, 0.8, 0.0], 4 * (1 - along) / 2)):
        at = torch.tensor([mu], dtype=torch.float64)
        sampled = paper.mean_distance(X, X + move, at, 10.0, 40_000, np.random.default_rng(0))
        assert np.isclose(sampled**2, expected, rtol=0.02)
        assert np.isclose(paper.distance_at(W, at), expected, rtol=0.02)


def test_between_sliced_and_largest_distance():
    """At the best location vDSW rises with kappa, from the sliced distance of POT to the largest W."""
    X, Y = clouds(3, 20)
    W = paper.sliced_w2(X, Y, paper.EVEN[None])
    values = torch.stack([paper.best_distance(W, kappa) for kappa in (1e-6, 1.0, 10.0, 100.0, 1e6)])
    assert (values.diff(dim=0) > 0).all()
    assert torch.allclose(values[-1], W.max(dim=1).values)
    directions = fibonacci_directions(500).T
    sliced = [
        ot.sliced_wasserstein_distance(x, y, projections=directions) ** 2
        for x, y in zip(X.numpy(), Y.numpy(), strict=True)
    ]
    assert np.allclose(values[0], sliced)


def test_gradient_in_the_location():
    """Through sampling and sorting, against finite differences along the sphere with the same random numbers."""
    X, Y = clouds(2, 5)
    mu = torch.as_tensor(paper.random_directions((2,), 3, np.random.default_rng(3))).requires_grad_()

    def value(at):
        return paper.mean_distance(X, Y, at, 5.0, 4, np.random.default_rng(4))

    (gradient,) = torch.autograd.grad(value(mu), mu)
    for axis in torch.eye(3, dtype=torch.float64):
        tangent = axis - (axis * mu).sum(dim=-1, keepdim=True) * mu
        moved = [value(paper.unit(mu.detach() + sign * 1e-5 * tangent.detach())) for sign in (1, -1)]
        assert np.isclose((moved[0] - moved[1]).item() / 2e-5, (gradient * tangent).sum().item(), atol=1e-6)


def test_attention_by_loops():
    X, _ = clouds(1, 5)
    net = network()
    W_q, W_k, W_v = (W.detach().numpy() for W in net.weights)
    x, expected = X[0].numpy(), np.zeros(3)
    weights = np.exp(x @ W_k) / np.exp(x @ W_k).sum(axis=0)
    for i in range(5):
        q = np.exp(x[i] @ W_q) / np.exp(x[i] @ W_q).sum()
        for j in range(5):
            expected += q @ weights[j] * (x[j] @ W_v) / 5
    assert np.allclose(net.attention(X).detach()[0], expected)


def test_symmetries():
    """Neither the order of points nor that of clouds matters; for the difference a swap turns the sign."""
    X, Y = clouds()
    order = torch.as_tensor(np.random.default_rng(5).permutation(6))
    for difference, sign in ((False, 1), (True, -1)):
        net = network(difference=difference)
        assert torch.allclose(net(X[:, order], Y), net(X, Y))
        assert torch.allclose(net(Y, X), sign * net(X, Y))
        assert torch.allclose(net(X, Y).norm(dim=-1), torch.ones(4, dtype=X.dtype))
        # Points that are all there twice are the same cloud
        assert torch.allclose(net(X.repeat(1, 2, 1), Y.repeat(1, 2, 1)), net(X, Y))
    linear = paper.LinearAmortizer(6, np.random.default_rng(0))
    assert not torch.allclose(linear(X[:, order], Y), linear(X, Y), atol=0.1)


def test_linear_amortizer_by_loops():
    X, Y = clouds(2, 3)
    net = paper.LinearAmortizer(3, np.random.default_rng(0))
    for pair in range(2):
        points = np.concatenate([X[pair], Y[pair]])
        total = sum(net.weights[i].item() * points[i] for i in range(6))
        assert np.allclose(net(X, Y)[pair].detach(), total / np.linalg.norm(total))


def test_first_step_of_training():
    """Adam's first step moves each weight by lr, upwards."""
    X, Y = clouds()
    net, start = network(), [W.detach().clone() for W in network().weights]
    value = paper.mean_distance(X, Y, net(X, Y), 10.0, 5, np.random.default_rng(7))
    gradients = torch.autograd.grad(value, list(net.weights))
    paper.train_amortizer(net, lambda: (X, Y), 1, np.random.default_rng(7), lr=0.01)
    for W, old, g in zip(net.weights, start, gradients, strict=True):
        assert torch.allclose(W.detach() - old, 0.01 * torch.sign(g), atol=1e-5)


def test_training_and_ascent_find_a_move():
    """Clouds that were all moved the same way: both go to the direction of the move, where the distance is largest."""
    X, _ = clouds(8, 10)
    move = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64)
    for at in paper.ascent_path(X, X + move, 40, np.random.default_rng(0), L=100, lr=0.5)[-1]:
        assert (at @ move).abs() > 0.98 * 3
        assert np.isclose(at.norm(), 1)
    net = network(1)
    before = (net(X, X + move) @ move).abs().mean()
    paper.train_amortizer(net, lambda: (X, X + move), 80, np.random.default_rng(0))
    after = (net(X, X + move) @ move).abs().mean()
    assert after > 0.95 * 3 > before


def test_pairs():
    rng = np.random.default_rng(0)
    X, Y = paper.pairs_of_clouds("tail lost", 50, 400, rng)
    for Z in (X, Y):
        assert Z.shape == (50, 400, 3)
        assert Z.mean(dim=1).abs().max() < 1e-12
    # The widest direction of each first cloud is that of its tail; the second cloud is narrower there
    tails = torch.linalg.eigh(X.mT @ X / 400).eigenvectors[:, :, -1:]
    assert ((Y @ tails).var(dim=1) < 0.6 * (X @ tails).var(dim=1)).all()
    assert ((X @ tails) ** 3).mean(dim=1).abs().min() > 0.2
    X, Y = paper.pairs_of_clouds("moved", 50, 400, rng)
    ratio = Y.mean(dim=1).norm(dim=-1) / X.mean(dim=1).norm(dim=-1)
    assert 0.1 < ratio.min() < ratio.max() < 0.65
    X, Y = paper.pairs_of_clouds("unrelated", 50, 10, rng)
    assert np.corrcoef(X.mean(dim=1).ravel(), Y.mean(dim=1).ravel())[0, 1] < 0.4


def test_angles_between_lines():
    first = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[-1.0, 0.0, 0.0], [0.6, 0.8, 0.0]], dtype=torch.float64)
    assert np.isclose(paper.turn(first, second), np.degrees(np.arccos(0.6)) / 2)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda X, mu, rng: paper.sliced_w2(X, X[:, :2], mu[None]), "Y"),
        (lambda X, mu, rng: paper.sliced_w2(X[:0], X[:0], mu[None]), "Y"),
        (lambda X, mu, rng: paper.sliced_w2(X[0], X[0], mu[None]), "Y"),
        (lambda X, mu, rng: paper.sliced_w2(X, X, mu[None, :, :2]), "theta"),
        (lambda X, mu, rng: paper.sample_vmf(mu, 0.0, 5, rng), "kappa"),
        (lambda X, mu, rng: paper.sample_vmf(mu, np.nan, 5, rng), "kappa"),
        (lambda X, mu, rng: paper.sample_vmf(mu, 1.0, 0, rng), "L"),
        (lambda X, mu, rng: paper.sample_vmf(mu[:, :1], 1.0, 5, rng), "d"),
        (lambda X, mu, rng: paper.SelfAttentionAmortizer(3, 0, rng), "d_k"),
        (lambda X, mu, rng: paper.LinearAmortizer(0, rng), "n"),
        (lambda X, mu, rng: paper.train_amortizer(network(), lambda: (X, X), 0, rng), "steps"),
        (lambda X, mu, rng: paper.ascent_path(X, X, 0, rng), "steps"),
    ],
)
def test_bad_input(call, name):
    X, rng = clouds()[0], np.random.default_rng(0)
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call(X, torch.as_tensor(paper.random_directions((4,), 3, rng)), rng)


SLIPS = {
    "keys normalised over features": ("k.softmax(dim=-2)", "k.softmax(dim=-1)"),
    "clouds sorted as they come, not along the direction": (
        "((theta @ Z.mT).sort(dim=-1).values for Z in (X, Y))",
        "((theta @ Z.mT) for Z in (X, Y))",
    ),
    "reflection without its factor 2": ("return x - 2 * (x * h)", "return x - (x * h)"),
    "cap too wide by a factor 2 in kappa": (
        "1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa",
        "1 + 2 * np.log(u + (1 - u) * np.exp(-kappa)) / kappa",
    ),
    "descent in place of ascent": ("w += lr * (m", "w -= lr * (m"),
    "bias of Adam not corrected": ("(m / (1 - 0.9**t))", "m"),
    "location not brought back to the sphere": (
        "path.append(unit(mu.detach() + lr * gradient))",
        "path.append(mu.detach() + lr * gradient)",
    ),
    "theta and -theta taken for different": (".sum(dim=-1).abs().clamp(max=1)", ".sum(dim=-1).clamp(max=1)"),
}
CATCHES = {
    "keys normalised over features": ["test_attention_by_loops"],
    "clouds sorted as they come, not along the direction": ["test_distance_against_pot"],
    "reflection without its factor 2": ["test_lengths_of_mean_directions", "test_poles"],
    "cap too wide by a factor 2 in kappa": ["test_lengths_of_mean_directions"],
    "descent in place of ascent": ["test_first_step_of_training", "test_training_and_ascent_find_a_move"],
    "bias of Adam not corrected": ["test_first_step_of_training"],
    "location not brought back to the sphere": ["test_training_and_ascent_find_a_move"],
    "theta and -theta taken for different": ["test_angles_between_lines"],
}
