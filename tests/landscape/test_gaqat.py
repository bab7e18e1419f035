"""Gradients of the quantiser against piecewise formulas and autograd, training against a loop for one network."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from paperlab.landscape import gaqat as paper
from paperlab.tools.domains import rotate

WIDTHS = (3, 6, 4)


def double(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def problem(k: int = 1, n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    X, y = double(rng.uniform(size=(k, n, 3))), torch.tensor(rng.integers(0, 4, (k, n)))
    return X, y, torch.tensor(paper.random_weights(WIDTHS, k, rng))


def straight_through(x, s, low, high):
    """LSQ by autograd: rounding is added as a constant, and the gradient of the scale is scaled by a constant trick."""
    factor = 1 / np.sqrt(x.numel() * high)
    s = (s * (1 - factor)).detach() + s * factor
    v = (x / s).clamp(low, high)
    return s * (v + (v.round() - v).detach())


@pytest.mark.parametrize(
    ("bits", "signed", "scale"), [(2, True, 0.7), (3, True, 0.3), (3, False, 0.4), (8, True, 0.02)]
)
def test_quantiser_against_autograd_and_fake_quantize(bits, signed, scale):
    rng = np.random.default_rng(bits)
    x, g = double(rng.normal(size=(2, 1, 5, 7)))
    low, high = paper.limits(double([bits]), signed)
    assert (float(low), float(high)) == ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1))
    a, s = x.clone().requires_grad_(), double([[[scale]]]).requires_grad_()
    found = paper.Quantize.apply(a, s, low, high)
    other, t = x.clone().requires_grad_(), double([[[scale]]]).requires_grad_()
    expected = straight_through(other, t, float(low), float(high))
    fake = torch.fake_quantize_per_tensor_affine(x.float(), scale, 0, int(low), int(high))
    assert torch.allclose(found, expected)
    assert torch.allclose(found.float(), fake, atol=1e-5)
    for one, two in zip(
        torch.autograd.grad(found, (a, s), g), torch.autograd.grad(expected, (other, t), g), strict=True
    ):
        assert torch.allclose(one, two)


def test_slopes_by_hand():
    """With 2 bits and scale 1 the grid is -2, -1, 0, 1."""
    x, s = double([[[-5.0, -0.7, 0.2, 3.0]]]).requires_grad_(), double([[[1.0]]]).requires_grad_()
    x_hat = paper.Quantize.apply(x, s, *paper.limits(double([2]), True))
    assert x_hat.tolist() == [[[-2.0, -1.0, 0.0, 1.0]]]
    for weights, slope in (([1, 0, 0, 0], -2.0), ([0, 1, 0, 0], -0.3), ([0, 0, 1, 0], -0.2), ([0, 0, 0, 1], 1.0)):
        g_x, g_s = torch.autograd.grad((double(weights) * x_hat).sum(), (x, s), retain_graph=True)
        # sqrt(n m high) = 2
        assert np.isclose(float(g_s), slope / 2)
        assert g_x[0, 0].tolist() == [0.0, *[float(each) for each in weights[1:3]], 0.0]


def test_a_tensor_has_few_values():
    x = double(np.random.default_rng(1).normal(size=(1, 40, 40)))
    for bits in (2, 3, 4):
        for signed in (True, False):
            found = paper.Quantize.apply(x, double([[[0.1]]]), *paper.limits(double([bits]), signed))
            assert len(found.unique()) == 2**bits


def plain_network(w, s, X, bits):
    """One network, layer by layer, from the flat vector by hand; tensors of one number as scales."""
    W1, b1, W2, b2 = w[:18].view(6, 3), w[18:24], w[24:48].view(4, 6), w[48:]
    half, full = 2 ** (bits - 1), 2**bits
    hidden = straight_through(X, s[1], 0, full - 1) @ straight_through(W1, s[0], -half, half - 1).T + b1
    inputs = straight_through(torch.relu(hidden), s[3], 0, full - 1)
    return inputs @ straight_through(W2, s[2], -half, half - 1).T + b2


def test_network_and_gradients_against_one_by_hand():
    X, y, w = problem(k=2)
    bits = double([3, 5])
    s = paper.initial_scales(w, X, WIDTHS, bits)
    g_w, g_s = paper.gradients(w, s, X, y, WIDTHS, bits)
    for k in range(2):
        v, t = w[k].clone().requires_grad_(), s[k].clone().requires_grad_()
        z = plain_network(v, t, X[k], int(bits[k]))
        assert torch.allclose(paper.network(w, s, X, WIDTHS, bits)[k], z)
        # The activations' factor counts all rows of the batch, as in the method.
        expected = torch.autograd.grad(cross_entropy(z, y[k]), (v, t))
        assert torch.allclose(g_w[k], expected[0])
        assert torch.allclose(g_s[k], expected[1])


def test_initial_scales_by_hand():
    X, _, w = problem()
    s = paper.initial_scales(w, X, WIDTHS, double([3]))
    W1, b1 = w[0, :18].view(6, 3), w[0, 18:24]
    hidden = torch.relu(X[0] @ W1.T + b1)
    means = [W1.abs().mean(), X.mean(), w[0, 24:48].abs().mean(), hidden.mean()]
    expected = [2 * mean / np.sqrt(high) for mean, high in zip(means, (3, 7, 3, 7), strict=True)]
    assert torch.allclose(s[0], torch.stack(expected))


def test_perturbation_moves_weights_only():
    X, y, w = problem(k=2)
    bits, rho = double([3, 3]), double([0.0, 0.3])
    s = paper.initial_scales(w, X, WIDTHS, bits)
    task, smooth = paper.both_gradients(w, s, rho, X, y, WIDTHS, bits)
    moved = w + rho[:, None] * task[0] / task[0].norm(dim=1, keepdim=True)
    expected = paper.gradients(moved, s, X, y, WIDTHS, bits)
    for found, right, here in zip(smooth, expected, task, strict=True):
        assert torch.allclose(found, right)
        assert torch.equal(found[0], here[0])
        assert not torch.allclose(found[1], here[1])


def test_disorder_of_known_sequences():
    steps = torch.arange(10)
    alternating, constant, one_change = (-1.0) ** steps, -torch.ones(10), torch.where(steps < 4, 1.0, -2.0)
    found = paper.disorder(torch.stack([alternating, constant, one_change], dim=1))
    assert torch.allclose(found, torch.tensor([1.0, 0.0, 1 / 9]).double())


def by_hand(w, X, y, bits, rho, freezes, steps, window, threshold):
    """Adam along both gradients for one network; returns weights, scales and which scales were frozen when."""
    rng, queue, task, was_frozen = np.random.default_rng(7), [], [], []
    v = [w, paper.initial_scales(w[None], X[None], WIDTHS, double([bits]))[0]]
    first, second, frozen = [0, 0], [0, 0], np.zeros(4, dtype=bool)
    for step in range(1, steps + 1):
        if len(queue) < 48:
            queue = list(rng.permutation(len(y)))
        rows, queue = queue[:48], queue[48:]

        def gradient(w, s, rows=rows):
            w, s = w.clone().requires_grad_(), s.clone().requires_grad_()
            return torch.autograd.grad(cross_entropy(plain_network(w, s, X[rows], bits), y[rows]), (w, s))

        g = gradient(*v)
        smooth = gradient(v[0] + rho * g[0] / g[0].norm(), v[1])
        task.append(g[1].numpy())
        was_frozen.append(frozen)
        updates = g[0] + smooth[0], double(np.where(frozen, 0, g[1])) + smooth[1]
        for i, update in enumerate(updates):
            first[i], second[i] = 0.9 * first[i] + 0.1 * update, 0.999 * second[i] + 0.001 * update**2
            v[i] = v[i] - 0.01 * (first[i] / (1 - 0.9**step)) / ((second[i] / (1 - 0.999**step)) ** 0.5 + 1e-8)
        v[1] = v[1].clamp_min(1e-4)
        if step % window == 0 and freezes:
            signs = np.sign(task[-window:])
            frozen = (signs[1:] != signs[:-1]).mean(axis=0) < threshold
    return *v, np.array(was_frozen)


def test_training_against_a_loop():
    """Networks of a stack, with their own bits, radius and freezing, train as if alone."""
    X, y, w = problem(k=3, n=100)
    bits, rho, freezes = [3, 3, 5], [0.1, 0.3, 0.3], [False, True, True]
    arrays = double(bits), double(rho), torch.tensor(freezes)
    options = {"window": 4, "threshold": 0.5, "steps": 14, "lr": 0.01}
    found = paper.train(
        X, y, w, WIDTHS, arrays[0], np.random.default_rng(7), rho=arrays[1], freezes=arrays[2], **options
    )
    for k in range(3):
        v, s, frozen = by_hand(w[k], X[k], y[k], bits[k], rho[k], freezes[k], 14, 4, 0.5)
        assert torch.allclose(found[0][k], v)
        assert torch.allclose(found[1][k], s)
        assert np.array_equal(found[2][2][:, k].numpy(), frozen)
        assert frozen.any() == freezes[k]
    # Frozen scales are judged again.
    assert (found[2][2][:, 1:].int().diff(dim=0) < 0).any()


def test_domains():
    (X, _), (new_X, new_y), (unseen_X, unseen_y) = paper.domains(2, 20, 10, np.random.default_rng(5))
    assert [tuple(each.shape) for each in (X, new_X, unseen_X)] == [(2, 60, 64), (2, 30, 64), (2, 10, 64)]
    assert torch.equal(new_y[:, :10], unseen_y)
    for rows, angle in ((new_X[0, 10:20], 15), (new_X[0, 20:], -15), (unseen_X[0], 40)):
        expected = rotate(new_X[0, :10].reshape(-1, 8, 8).numpy(), angle).reshape(-1, 64)
        assert np.allclose(rows.numpy(), expected)
    assert torch.cdist(new_X[0], X[0]).min() > 0


def test_the_answer_of_the_experiment():
    explorer = paper.explorer()
    largest = {
        bits: max(abs(explorer.compute(explorer.context, bits, layer, 0.5, 0.05)["slopes"][0]) for layer in (1, 2, 3))
        for bits in paper.BITS
    }
    (solution,) = [each.solution() for each in paper.exercises() if each.id == "indifferent"]
    assert largest.pop(solution) < 0.02
    assert min(largest.values()) > 0.15


ONE = double([1.0])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.limits(double([1.0]), True), "bits"),
        (lambda: paper.limits(double([np.nan]), True), "bits"),
        (lambda: paper.split_layers(double(np.zeros((1, 7))), (3, 2)), "w"),
        (lambda: paper.disorder(double([[1.0]])), "g"),
        (lambda: train_with(rho=-ONE), "rho"),
        (lambda: train_with(window=1), "window"),
        (lambda: train_with(steps=0), "steps"),
        (lambda: train_with(lr=0.0), "lr"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


def train_with(**changes):
    return paper.train(
        *problem(), WIDTHS, 3 * ONE, np.random.default_rng(0), **{"rho": ONE, "freezes": ONE > 0, **changes}
    )


SLIPS = {
    "slope outside forgotten": ("torch.where(inside, level - v, level)", "level - v"),
    "gradient of a scale not divided": ("/ (v.shape[-2] * v.shape[-1] * high) ** 0.5", "/ 1.0"),
    "one level too many": ("(-count / 2, count / 2 - 1)", "(-count / 2, count / 2)"),
    "the unsteady are frozen": ("(recent < threshold)", "(recent > threshold)"),
    "the wrong gradient rests": ("torch.where(frozen, 0.0, g_s) + h_s)", "g_s + torch.where(frozen, 0.0, h_s))"),
    "frozen for ever": ("frozen = freezes[:, None] & (recent", "frozen = frozen | freezes[:, None] & (recent"),
}
CATCHES = {
    "slope outside forgotten": ["test_slopes_by_hand"],
    "gradient of a scale not divided": ["test_slopes_by_hand"],
    "one level too many": ["test_a_tensor_has_few_values"],
    "the unsteady are frozen": ["test_training_against_a_loop"],
    "the wrong gradient rests": ["test_training_against_a_loop"],
    "frozen for ever": ["test_training_against_a_loop"],
}
