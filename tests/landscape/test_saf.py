"""The penalty against torch's distributions, the network and its training against modules and a loop of its own."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy

from paperlab.landscape import saf as paper

WIDTHS = (3, 5, 4)


def double(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def problem(k: int = 1, n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    X, y = double(rng.normal(size=(k, n, 3))), torch.tensor(rng.integers(0, 4, (k, n)))
    return X, y, torch.tensor(paper.random_weights(WIDTHS, k, rng))


def test_penalty_against_distributions():
    rng = np.random.default_rng(1)
    z, past = double(3 * rng.normal(size=(2, 7, 4)))
    for tau in (1.0, 5.0):
        divergence = kl_divergence(Categorical(logits=past / tau), Categorical(logits=z / tau))
        assert torch.isclose(paper.trajectory_loss(z, past, tau), tau**2 * divergence.mean())


def test_penalty_and_its_gradient_are_0_where_nothing_changed():
    z = double(np.random.default_rng(2).normal(size=(5, 3))).requires_grad_()
    loss = paper.trajectory_loss(z, z.detach())
    (gradient,) = torch.autograd.grad(loss, z)
    assert abs(loss) < 1e-12
    assert gradient.abs().max() < 1e-12


def test_penalty_at_high_temperature_is_a_squared_distance():
    """For large tau, tau^2 KL is half the variance of the change of the logits over the classes."""
    z, past = double(np.random.default_rng(3).normal(size=(2, 6, 4)))
    expected = ((z - past).var(dim=1, unbiased=False) / 2).mean()
    assert torch.isclose(paper.trajectory_loss(z, past, 1e3), expected, rtol=5e-3)


def test_buffer_remembers_exactly_the_lag():
    for lag in (1, 3):
        record = paper.OutputBuffer((2, 6, 3), lag)
        for epoch in range(1, 9):
            for rows in (torch.tensor([0, 4, 2]), torch.tensor([1, 3, 5])):
                record.write(epoch, rows, 100.0 * epoch + rows[:, None].double().expand(2, 3, 3))
                if epoch > lag:
                    past = record.read(epoch, rows)
                    assert torch.equal(past, 100.0 * (epoch - lag) + rows[:, None].double().expand(2, 3, 3))
    assert torch.isnan(paper.OutputBuffer((1, 2, 3), 1).read(1, torch.tensor([0]))).all()


def test_network_and_losses_against_modules():
    X, y, w = problem(k=2)
    for k in range(2):
        layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
        torch.nn.utils.vector_to_parameters(w[k], layers.parameters())
        z = paper.network(w, X, WIDTHS)[k]
        assert torch.allclose(z, layers(X[k]))
        assert torch.isclose(paper.losses(z, y[k]).mean(), cross_entropy(layers(X[k]), y[k]))


def by_hand(X, y, w, lam, lag, tau, epochs, rho=0.0):
    """SGD with the penalty, written out for one network with all outputs of all epochs kept."""
    rng, velocity, kept, step, n = np.random.default_rng(7), torch.zeros_like(w), {}, 0, len(y)
    n_steps = epochs * -(-n // 50)
    for epoch in range(1, epochs + 1):
        for rows in torch.tensor(rng.permutation(n)).split(50):

            def gradient(w, epoch=epoch, rows=rows):
                w = w.detach().requires_grad_()
                z = paper.network(w, X[rows], WIDTHS)
                objective = cross_entropy(z, y[rows])
                for row, each in zip(rows.tolist(), z.detach(), strict=True):
                    kept[epoch, row] = each
                if lam and epoch > 5 and epoch > lag:
                    past = torch.stack([kept[epoch - lag, row] for row in rows.tolist()])
                    divergence = kl_divergence(Categorical(logits=past / tau), Categorical(logits=z / tau))
                    objective = objective + lam * tau**2 * divergence.mean()
                return torch.autograd.grad(objective, w)[0]

            g = gradient(w)
            if rho:
                g = gradient(w + rho * g / g.norm())
            velocity = 0.9 * velocity + g
            w = w - 0.1 * 0.5 * (1 + np.cos(np.pi * step / n_steps)) * velocity
            step += 1
    return w


def test_training_against_a_loop():
    """Networks of a stack, each with its own weight of the penalty, train as if alone; SAM too."""
    X, y, w = problem(k=2)
    lam = double([0.0, 2.0])
    end, history, n_gradients = paper.train(
        X, y, w, WIDTHS, np.random.default_rng(7), lam=lam, lag=2, tau=3.0, epochs=9
    )
    for k in range(2):
        assert torch.allclose(end[k], by_hand(X[k], y[k], w[k], float(lam[k]), 2, 3.0, 9))
        assert torch.isclose(history[-1, k].mean(), cross_entropy(paper.network(end[k], X[k], WIDTHS), y[k]))
    assert history.shape == (9, 2, 60)
    assert n_gradients == 18
    end, _, n_gradients = paper.train(X, y, w, WIDTHS, np.random.default_rng(7), rho=0.2, epochs=3)
    assert torch.allclose(end[1], by_hand(X[1], y[1], w[1], 0.0, 3, 5.0, 3, rho=0.2))
    assert n_gradients == 12


def test_sharpness_against_a_dense_hessian():
    X, y, w = problem()
    value, vector = paper.sharpest(w[0], X[0], y[0], WIDTHS)
    H = torch.autograd.functional.hessian(lambda v: cross_entropy(paper.network(v, X[0], WIDTHS), y[0]), w[0])
    assert np.isclose(value, torch.linalg.eigvalsh(H)[-1], rtol=1e-3)
    assert torch.allclose(H @ vector, value * vector, atol=0.02 * value)


def test_noisy_digits():
    X, y, test_X, test_y = paper.noisy_digits(2, 100, 0.3, np.random.default_rng(5))
    clean = paper.noisy_digits(2, 100, 0.0, np.random.default_rng(5))
    assert [each.shape for each in (X, y, test_X, test_y)] == [(2, 100, 64), (2, 100), (2, 1000, 64), (2, 1000)]
    assert torch.equal(X, clean[0])
    assert torch.equal(test_y, clean[3])
    assert (y[:, :30] != clean[1][:, :30]).all()
    assert torch.equal(y[:, 30:], clean[1][:, 30:])


def test_the_answer_of_the_experiment():
    runs = paper.explorer_runs(3)
    (solution,) = [each.solution() for each in paper.exercises() if each.id == "flattest"]
    assert min(paper.LAMBDAS, key=lambda lam: runs[0.0, lam]["sharpness"]) == solution
    assert min(paper.LAMBDAS, key=lambda lam: runs[0.2, lam]["sharpness"]) == 3.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.trajectory_loss(torch.zeros(2, 3), torch.zeros(2, 3), 0.0), "tau"),
        (lambda: paper.OutputBuffer((1, 2, 3), 0), "lag"),
        (lambda: paper.network(torch.zeros(7), torch.zeros(2, 3), (3, 2)), "w"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), lam=-1.0), "lam"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), lam=float("nan")), "lam"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), epochs=0), "epochs"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), lr=0.0), "lr"),
        (lambda: paper.train(*problem(), WIDTHS, np.random.default_rng(0), rho=-0.1), "rho"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "past and present swapped": ("(q.exp() * (q - p))", "(p.exp() * (p - q))"),
    "factor tau squared missing": ("return tau**2 * (q", "return (q"),
    "record of the wrong epoch": ("(epoch - self.lag) %", "(epoch - 1) %"),
    "momentum forgotten": ("velocity = 0.9 * velocity + g", "velocity = 0.0 * velocity + g"),
    "no schedule": ("(1 + np.cos(np.pi * step / n_steps)) / 2", "1.0"),
}
CATCHES = {
    "past and present swapped": ["test_penalty_against_distributions"],
    "factor tau squared missing": ["test_penalty_against_distributions"],
    "record of the wrong epoch": ["test_buffer_remembers_exactly_the_lag"],
    "momentum forgotten": ["test_training_against_a_loop"],
    "no schedule": ["test_training_against_a_loop"],
}
