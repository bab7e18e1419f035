"""Lion against another implementation, its flow against finite differences, the box against L-BFGS-B."""

import numpy as np
import pytest
import torch
from lion_pytorch import Lion as OtherLion
from scipy.optimize import minimize

from paperlab.optimizers import lion_lyapunov as paper


def quadratic(seed: int = 0, d: int = 6):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d))
    return A @ A.T / d + 0.1 * np.eye(d), 6 * rng.normal(size=d), rng


def test_same_steps_as_another_implementation():
    Q, b, rng = quadratic()
    start = rng.normal(size=6)
    paths = [
        paper.trajectory(lambda x, kind=kind: kind(x, lr=0.03, betas=(0.8, 0.95), weight_decay=0.7), Q, b, start, 60)
        for kind in (paper.Lion, OtherLion)
    ]
    assert np.allclose(paths[0], paths[1], atol=1e-12)


def test_first_step_by_hand():
    """From m = 0 the step is the sign of the gradient; only weights with a gradient move."""
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    idle = torch.ones(1, requires_grad=True)
    rule = paper.Lion([x, idle], lr=0.1, weight_decay=0.5)
    loss = rule.step(lambda: (loss := (torch.tensor([2.0, -1.0, 0.0]) * x).sum(), loss.backward())[0])
    assert loss.item() == 4.0
    assert np.allclose(x.detach(), [1 - 0.1 * 1.5, -2 + 0.1 * 2.0, 3 - 0.1 * 1.5])
    assert idle.item() == 1.0
    assert np.allclose(rule.state[x]["momentum"], 0.01 * np.array([2.0, -1.0, 0.0]))


def test_distance_to_the_box_shrinks_in_every_step():
    """d_{t+1} <= (1 - lr lambda) d_t, whatever the gradient; inside, the box is never left."""
    Q, b, rng = quadratic()
    for decay in (1.0, 4.0):
        path = paper.trajectory(
            lambda x, d=decay: paper.Lion(x, 0.01, weight_decay=d), Q, b, 8 * rng.normal(size=6), 500
        )
        distance = paper.box_distance(path, decay)
        factor = 1 - 0.01 * (1 - np.arange(500) / 500) * decay
        assert (distance[1:] <= factor * distance[:-1] + 1e-14).all()


def test_ends_at_the_constrained_minimum():
    """At the minimum on the box the gradient is 0, or points outwards at a wall."""
    Q, b, rng = quadratic()
    end = paper.trajectory(lambda x: paper.Lion(x, 0.01, weight_decay=1.0), Q, b, rng.normal(size=6), 4000)[-1]
    gradient = Q @ end - b
    at_wall = np.abs(end) > 1 - 1e-4
    assert at_wall.any()
    assert (np.sign(gradient[at_wall]) == -np.sign(end[at_wall])).all()
    assert np.abs(gradient[~at_wall]).max(initial=0) < 0.05


def test_euclidean_direction_gives_the_euclidean_ball():
    Q, b, rng = quadratic()
    rule = lambda x: paper.Lion(x, 0.01, weight_decay=2.0, direction=paper.unit_direction)  # noqa: E731
    end = paper.trajectory(rule, Q, b, rng.normal(size=6), 3000)[-1]
    assert np.isclose(np.linalg.norm(end), 0.5, atol=1e-3)
    # On the sphere the gradient points at the centre: -gradient is a multiple of x.
    gradient = Q @ end - b
    assert np.isclose(gradient @ end, -np.linalg.norm(gradient) * np.linalg.norm(end), rtol=1e-3)
    assert torch.equal(paper.unit_direction(torch.zeros(3)), torch.zeros(3))


def test_lyapunov_function_by_its_definition():
    """One start, H from its formula with the conjugate as a supremum on a grid."""
    Q, b, _ = quadratic(d=2)
    x, m, lam, epsilon, gamma, e = np.array([[0.3, -0.4]]), np.array([[1.0, 0.5]]), 0.8, 0.3, 1.2, 0.5
    flow = paper.lion_flow(Q, b, x, m, weight_decay=lam, epsilon=epsilon, gamma=gamma, smoothing=e, steps=1)
    z = np.linspace(-30, 30, 600_001)
    conjugate = sum((lam * xi * z - np.sqrt(z**2 + e**2)).max() for xi in x[0])
    kappa = np.sqrt(m[0] ** 2 + e**2).sum()
    f = 0.5 * x[0] @ Q @ x[0] - b @ x[0]
    expected = f + gamma / lam * conjugate
    expected += (1 - epsilon * gamma) / (1 + epsilon * lam) * (conjugate + kappa - lam * m[0] @ x[0])
    assert np.isclose(flow.f[0, 0], f)
    assert np.isclose(flow.H[0, 0], expected, atol=1e-6)


def test_lyapunov_function_never_rises():
    Q, b, rng = quadratic()
    x = rng.uniform(-1, 1, size=(8, 6))
    for epsilon, gamma in ((0.3, 1.0), (0.9, 1.0), (0.5, 2.0)):
        flow = paper.lion_flow(Q, b, x, 3 * rng.normal(size=(8, 6)), weight_decay=0.5, epsilon=epsilon, gamma=gamma)
        assert np.diff(flow.H, axis=0).max() < 1e-9


def test_flow_rests_at_the_minimum_of_f_plus_the_conjugate():
    """At rest the mixed term of H is 0 (equality in Fenchel's inequality), and H is the least value of the sum."""
    Q, b, _ = quadratic()
    lam, e, start = 0.5, 0.5, np.zeros((1, 6))
    flow = paper.lion_flow(Q, b, start, start, weight_decay=lam, smoothing=e, dt=1e-2, steps=6000)

    def objective(x):
        return 0.5 * x @ Q @ x - b @ x - e / lam * np.sqrt(np.maximum(1 - (lam * x) ** 2, 0)).sum()

    best = minimize(objective, np.zeros(6), bounds=[(-2, 2)] * 6, options={"ftol": 1e-15}).fun
    assert np.isclose(flow.H[-1, 0], best, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lr", {"lr": 0.0}),
        ("lr", {"lr": np.nan}),
        ("betas", {"betas": (0.9, 1.0)}),
        ("weight_decay", {"weight_decay": -1}),
    ],
)
def test_bad_options(name, change):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        paper.Lion([torch.zeros(2)], **change)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", {"x": np.full((1, 2), 3.0)}),
        ("x", {"x": np.full((1, 2), np.nan)}),
        ("m", {"m": np.zeros(2)}),
        ("weight_decay", {"weight_decay": 0.0}),
        ("epsilon", {"epsilon": 2.0}),
        ("steps", {"steps": 0}),
    ],
)
def test_bad_flow(name, change):
    arguments = {"Q": np.eye(2), "b": np.ones(2), "x": np.zeros((1, 2)), "m": np.zeros((1, 2)), "weight_decay": 0.5}
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        paper.lion_flow(**{**arguments, **change})


SLIPS = {
    "step with the momentum's beta": ("c = beta1 * m + (1 - beta1) * x.grad", "c = beta2 * m + (1 - beta2) * x.grad"),
    "decay without the learning rate": (
        'x -= lr * (group["direction"](c) + decay * x)',
        'x -= lr * group["direction"](c) + decay * x',
    ),
    "momentum with the betas swapped": (
        "m.mul_(beta2).add_(x.grad, alpha=1 - beta2)",
        "m.mul_(beta1).add_(x.grad, alpha=1 - beta1)",
    ),
    "sign of the mixed term of H": (
        "mixed = conjugate + kappa - lam * (m * x)",
        "mixed = conjugate + kappa + lam * (m * x)",
    ),
    "epsilon forgotten in the flow": ("c = m - epsilon * (g + gamma * m)", "c = m + epsilon * (g + gamma * m)"),
}
CATCHES = {
    "step with the momentum's beta": ["test_same_steps_as_another_implementation"],
    "decay without the learning rate": ["test_same_steps_as_another_implementation", "test_first_step_by_hand"],
    "momentum with the betas swapped": ["test_same_steps_as_another_implementation", "test_first_step_by_hand"],
    "sign of the mixed term of H": ["test_lyapunov_function_by_its_definition"],
    "epsilon forgotten in the flow": ["test_lyapunov_function_never_rises"],
}
