r"""Rectified flow with gradient fields: optimal transport from within, by repeated regression.

Join the points of two densities in any way by straight lines. Where lines cross, a flow cannot follow them all; the
*rectified flow* follows their mean velocity. It ends in the right density, and no convex cost has grown. But repeating
it need not lead to the cheapest way: a rotation, whose lines do not cross, is left as it is. For one fixed cost the
paper restricts the velocity. For the squared distance it must be a gradient: what rotates is projected away, and
repeated rounds lower that one cost, in good cases to the optimum.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`X_0, X_1`        a coupling: two random points, drawn together
:math:`X_t`             :math:`(1 - t) X_0 + t X_1`, on the straight line
:math:`v_t`             velocity; :math:`Z_t` follows it from :math:`Z_0 = X_0`
:math:`S_{ij}`          :math:`E[X_i X_j^T]`, for couplings that are Gaussian with mean 0
:math:`\Sigma_t, B_t`   :math:`E[X_t X_t^T]` and :math:`E[(X_1 - X_0) X_t^T]`
======================= ========================================================================================

One round: :math:`v = \arg\min_v \int_0^1 E\,|X_1 - X_0 - v_t(X_t)|^2\,dt` over all fields (rectified flow) or over
gradients :math:`v_t = \nabla f_t` (c-rectified flow for :math:`c = |\cdot|^2 / 2`); then
:math:`\dot Z_t = v_t(Z_t)`, and :math:`(Z_0, Z_1)` is the new coupling. For Gaussian couplings :math:`v_t(x) = A_t x`
with :math:`A_t = B_t \Sigma_t^{-1}`, or the symmetric solution of :math:`A \Sigma_t + \Sigma_t A = B_t + B_t^T`.

Guarantee: if the flow exists, both kinds keep the two densities. The rectified flow raises no convex cost; the
c-rectified flow does not raise :math:`E|X_1 - X_0|^2`. An optimal coupling is a fixed point of the latter. The
converse needs more than the paper assumes: with far clusters it stops too early (Hertrich, Chambolle, Delon 2025,
arXiv 2505.19712).

Not reproduced: other costs than the squared distance, for which :math:`v_t = \nabla c^*(\nabla f_t)`; networks; domain
transfer of images.

Reference: Liu: Rectified Flow: A Marginal Preserving Approach to Optimal Transport, 2022, arXiv 2209.14577.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.bures import bures_squared, gaussian_map, plane_rotation, rotated_coupling
from paperlab.tools.integrators import Path, solve_ode

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

Matrix = Float[np.ndarray, "d d"]
Points = Float[np.ndarray, "n d"]


def line_moments(S00: Matrix, S01: Matrix, S11: Matrix, t: float) -> tuple[Matrix, Matrix]:
    """``E[X_t X_t^T]`` and ``E[(X_1 - X_0) X_t^T]`` on the lines of a Gaussian coupling."""
    # Sigma_t = (1-t)^2 S00 + t (1-t) (S01 + S01^T) + t^2 S11
    Sigma = (1 - t) ** 2 * S00 + t * (1 - t) * (S01 + S01.T) + t**2 * S11
    # B_t = (1-t) (S01^T - S00) + t (S11 - S01)
    return Sigma, (1 - t) * (S01.T - S00) + t * (S11 - S01)


def free_velocity(Sigma: Matrix, B: Matrix) -> Matrix:
    """``A_t`` of the rectified flow: any matrix, the one that minimises ``E |X_1 - X_0 - A X_t|^2``."""
    # E[X_1 - X_0 | X_t = x] = B Sigma^-1 x
    return np.linalg.solve(Sigma, B.T).T


def gradient_velocity(Sigma: Matrix, B: Matrix) -> Matrix:
    """``A_t`` of the c-rectified flow: the symmetric matrix that minimises ``E |X_1 - X_0 - A X_t|^2``."""
    # A Sigma + Sigma A = B + B^T, solved entry by entry in the eigenvectors of Sigma
    values, Q = np.linalg.eigh(Sigma)
    return Q @ (Q.T @ (B + B.T) @ Q / (values[:, None] + values[None, :])) @ Q.T


def rectify_gaussian(S00, S01, S11, velocity: Callable, n_steps: int = 50) -> Path:
    """One round for a Gaussian coupling: the matrices ``M_t`` with ``Z_t = M_t Z_0``, at ``n_steps + 1`` times.

    ``velocity``: ``free_velocity`` or ``gradient_velocity``. The new ``S01`` is ``S00 M_1^T``. Raises ``ValueError`` if
    shapes differ, entries are not finite, or all lines meet in a point or a flat set, where no velocity is defined.
    """
    S00, S01, S11 = finite_array("S00", S00, 2), finite_array("S01", S01, 2), finite_array("S11", S11, 2)
    if not S00.shape == S01.shape == S11.shape == S00.T.shape:
        raise ValueError(f"S01 has shape {S01.shape}, S00 {S00.shape}, S11 {S11.shape}; not (d, d)")

    def rate(t, M):
        Sigma, B = line_moments(S00, S01, S11, t)
        if np.linalg.eigvalsh(Sigma)[0] < 1e-9 * (np.trace(S00) + np.trace(S11)):
            raise ValueError(f"S01={S01.tolist()}: the lines meet at time {t:g}: no velocity there")
        # d/dt M_t = A_t M_t
        return velocity(Sigma, B) @ M

    times = np.linspace(0, 1, whole_number("n_steps", n_steps, 1) + 1)
    return solve_ode(rate, np.eye(len(S00)), times)


def transport_cost(S00: Matrix, M: Matrix, W: Matrix | None = None) -> float:
    """``E[(X_1 - X_0)^T W (X_1 - X_0)]`` for ``X_1 = M X_0``, by default with ``W = I``."""
    gap = (M - np.eye(len(M))) @ S00 @ (M - np.eye(len(M))).T
    return float(np.trace(gap if W is None else W @ gap))


def fit_velocity(X0: Points, X1: Points, rng, *, gradient: bool, n_bumps=100, widths=(0.35, 0.8)) -> Callable:
    """The velocity of one round from ``n`` pairs, by least squares; ``(t, x (n, d)) -> (n, d)``.

    ``gradient``: only gradients of potentials, as the squared distance asks. The model is linear in ``x``, quadratic in
    ``t``, plus ``n_bumps`` Gaussian bumps at random points of the lines, with ``widths`` in time and in place.
    Raises ``ValueError`` for pairs that do not match, or numbers out of range.
    """
    X0, X1 = finite_array("X0", X0, ndim=2), finite_array("X1", X1, ndim=2)
    if X0.shape != X1.shape:
        raise ValueError(f"X1 has shape {X1.shape}; {X0.shape}, the shape of X0, is needed")
    w_t, w_x = (positive("widths", width) for width in widths)
    # Four points on each line
    t, X0, X1 = rng.uniform(size=(4 * len(X0), 1)), np.tile(X0, (4, 1)), np.tile(X1, (4, 1))
    X_t, d = (1 - t) * X0 + t * X1, X0.shape[1]
    # The Hessians of x_i x_j
    pairs = [np.outer(np.eye(d)[i], np.eye(d)[j]) for i in range(d) for j in range(i + 1)]
    symmetric = np.array([pair + pair.T for pair in pairs])
    chosen = rng.choice(len(t), whole_number("n_bumps", n_bumps, 1, len(t)), replace=False)
    centres = np.hstack([t / w_t, X_t / w_x])[chosen]

    def features(t, x):
        t = np.broadcast_to(t, (len(x), 1))
        bumps = np.exp(-cdist(np.hstack([t / w_t, x / w_x]), centres, "sqeuclidean") / 2)
        powers = np.hstack([t**0, t, t**2])
        if not gradient:
            # v_t(x) = features @ B, with a column of B for each coordinate
            return np.hstack([bumps, powers, *(powers * x[:, [i]] for i in range(d))])
        # v_t(x) = grad_x of (bumps, powers * x_i, powers * x_i x_j) @ B
        slopes = bumps[:, None, :] * (centres[:, 1:].T - x[:, :, None] / w_x) / w_x
        first = np.broadcast_to(np.eye(d), (len(x), d, d))
        second = np.einsum("kji,ni->njk", symmetric, x)
        polynomials = np.concatenate([first, second], axis=2)[..., None] * powers[:, None, None, :]
        return np.concatenate([slopes, polynomials.reshape(len(x), d, -1)], axis=2)

    # min over B of E |X_1 - X_0 - phi B|^2
    phi, speed = features(t, X_t), X1 - X0
    phi, speed = (phi.reshape(-1, phi.shape[-1]), speed.reshape(-1)) if gradient else (phi, speed)
    B = np.linalg.solve(phi.T @ phi / len(t) + 1e-6 * np.eye(phi.shape[1]), phi.T @ speed / len(t))
    return lambda t, x: features(t, x) @ B


def rectify(X0: Points, X1: Points, rng, *, gradient: bool, n_steps: int = 25) -> Path:
    """One round for pairs of points: the flow of the fitted velocity from ``X0``; ``path.end`` replaces ``X1``."""
    times = np.linspace(0, 1, whole_number("n_steps", n_steps, 1) + 1)
    # d/dt Z_t = v_t(Z_t), Z_0 = X_0
    return solve_ode(fit_velocity(X0, X1, rng, gradient=gradient), X0, times, "midpoint")


DIMENSION, ANGLE, ROUNDS, SKEWED = 3, 80.0, 3, 10
PAIRS, PARTICLE_ANGLE, PARTICLE_ROUNDS = 1000, 60.0, 2


@dataclass(frozen=True, eq=False)
class Experiment:
    """Gaussian couplings, then pairs of points; ``free``, ``gradient``: by kind of velocity.

    ``excess``: cost above the optimum before and after each round. ``marginal``: largest error of ``S11`` in any round.
    ``skewed``: factor of other convex costs in one round, geometric mean. ``euler``: error of one Euler step, in units
    of the spread, after one and after two rounds. ``particles``: cost over the optimum, and the distance of the ends
    from fresh samples. ``fresh``: that distance for true samples.
    """

    excess: dict[str, Float[np.ndarray, " rounds+1"]]
    marginal: dict[str, float]
    skewed: dict[str, float]
    euler: Float[np.ndarray, " 2"]
    particles: dict[str, Float[np.ndarray, " 2"]]
    fresh: float


KINDS = {"free": free_velocity, "gradient": gradient_velocity}


def symmetric_part(Sigma: Matrix, B: Matrix) -> Matrix:
    """A mistake: the symmetric part of the free velocity, which is not the nearest gradient in the mean."""
    return (free_velocity(Sigma, B) + free_velocity(Sigma, B).T) / 2


def rounds(S00: Matrix, M: Matrix, velocity: Callable, n: int, n_steps: int = 50) -> list[Matrix]:
    """The linear coupling ``X_1 = M X_0``, and the maps after each of ``n`` rounds."""
    maps = [M]
    for _ in range(n):
        maps.append(rectify_gaussian(S00, S00 @ maps[-1].T, M @ S00 @ M.T, velocity, n_steps).end)
    return maps


def stretch(x: Points) -> Points:
    """The optimal map of the particle experiment: the gradient of a convex function, coordinate by coordinate."""
    return 2 * np.tanh(1.5 * x) + 0.3 * x


def matching_cost(x: Points, y: Points) -> float:
    """The least mean squared distance when each of the points is matched to one of the others."""
    cost = cdist(x, y, "sqeuclidean")
    return float(cost[linear_sum_assignment(cost)].mean())


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Random Gaussian couplings in 3 dimensions, turned by 80 degrees; 1000 pairs in the plane, turned by 60."""
    for_gaussian, for_pairs, for_fit = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))

    def covariance(low=0.3, high=3.0):
        Q = np.linalg.qr(for_gaussian.normal(size=(DIMENSION, DIMENSION)))[0]
        return (Q * np.geomspace(low, high, DIMENSION)) @ Q.T

    S00, S11 = covariance(), covariance()
    start, optimum = rotated_coupling(S00, S11, plane_rotation(ANGLE, DIMENSION)), bures_squared(S00, S11)
    maps = {name: rounds(S00, start, velocity, ROUNDS) for name, velocity in KINDS.items()}
    excess = {name: np.array([transport_cost(S00, M) - optimum for M in maps[name]]) for name in KINDS}
    maps["symmetric part"] = rounds(S00, start, symmetric_part, 1)
    skewed = dict.fromkeys(KINDS, 1.0)
    for _ in range(SKEWED):
        # The coupling that is optimal for another convex cost, x^T W x
        half = covariance(0.2, 5.0)
        best = np.linalg.solve(half, gaussian_map(half @ S00 @ half, half @ S11 @ half)) @ half
        for name, velocity in KINDS.items():
            before, after = (transport_cost(S00, M, half @ half) for M in rounds(S00, best, velocity, 1))
            skewed[name] *= (after / before) ** (1 / SKEWED)
    # From independent points, S01 = 0
    first = rectify_gaussian(S00, 0 * S00, S11, free_velocity).end
    # One Euler step: Z_0 + A_0 Z_0
    steps = [
        np.eye(DIMENSION) + free_velocity(*line_moments(S00, S01, S11, 0.0)) - M
        for S01, M in ((0 * S00, first), (S00 @ first.T, rounds(S00, first, free_velocity, 1)[1]))
    ]
    X0 = for_pairs.standard_normal((PAIRS, 2))
    fresh, more = (stretch(for_pairs.standard_normal((PAIRS, 2))) for _ in range(2))
    ends, best = {}, np.mean((stretch(X0) - X0) ** 2)
    for name in KINDS:
        ends[name] = stretch(X0 @ plane_rotation(PARTICLE_ANGLE).T)
        for _ in range(PARTICLE_ROUNDS):
            ends[name] = rectify(X0, ends[name], for_fit, gradient=name == "gradient").end
    particles = {name: np.array([np.mean((Z - X0) ** 2) / best, matching_cost(Z, fresh)]) for name, Z in ends.items()}
    return Experiment(
        excess=excess,
        marginal={name: float(max(np.abs(M @ S00 @ M.T - S11).max() for M in each)) for name, each in maps.items()},
        skewed=skewed,
        euler=np.array([np.sqrt(np.trace(step @ S00 @ step.T) / np.trace(S11)) for step in steps]),
        particles=particles,
        fresh=matching_cost(more, fresh),
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    plain, gradient = result.particles["free"], result.particles["gradient"]
    return (
        Claim(
            id="optimal",
            statement="Repeated rounds with gradient fields come to the optimal cost of a Gaussian coupling",
            source="c-rectified flow and optimality of its fixed points",
            quantity="cost above the optimum after three rounds",
            unit="",
            measured=max(float(result.excess["gradient"][-1]), 1e-12),
            relation="<=",
            bound=1e-2,
            control=Control("three rounds without the restriction", float(result.excess["free"][-1]), "baseline"),
            scale="log",
        ),
        Claim(
            id="marginals",
            statement="Every round keeps the two densities exactly",
            source="marginal preserving property",
            quantity="largest error of the end's covariance, over all rounds",
            unit="",
            measured=result.marginal["gradient"],
            relation="<=",
            bound=1e-4,
            control=Control(
                "the symmetric part of the velocity for the nearest gradient",
                result.marginal["symmetric part"],
                "broken",
            ),
            scale="log",
        ),
        Claim(
            id="all_costs",
            statement="The rectified flow raises no convex cost; gradient fields serve one cost and raise another",
            source="rectified flow is multi-objective, its c-rectified variant single-objective",
            quantity="factor of a skewed cost in one round, from the coupling optimal for it, mean of 10",
            unit="",
            measured=result.skewed["free"],
            relation="<=",
            bound=1.4,
            control=Control("one round with gradient fields", result.skewed["gradient"], "ablation"),
            scale="log",
        ),
        Claim(
            id="straight",
            statement="A second round of rectified flow makes the paths straight: one Euler step follows them",
            source="straightening by reflow",
            quantity="root mean square error of a single Euler step, over the spread of the end",
            unit="",
            measured=float(result.euler[1]),
            relation="<=",
            bound=0.5,
            control=Control("after the first round", float(result.euler[0]), "ablation"),
        ),
        Claim(
            id="particles",
            statement="Fitted to pairs of points, gradient fields undo a rotation and come near the optimal cost",
            source="c-rectified flow from samples",
            quantity="cost after two rounds, in units of the optimal map's cost on the same points",
            unit="",
            measured=float(gradient[0]),
            relation="<=",
            bound=1.8,
            control=Control("the same model without the restriction", float(plain[0]), "baseline"),
            scale="log",
        ),
        Observation(
            "Squared distance of the ends from fresh samples after two rounds: gradient fields, true samples",
            float(gradient[1]),
            result.fresh,
            "A fitted velocity is not exact, so the ends drift a little from their density with every round.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    return (
        Exercise(
            id="nearest_gradient",
            task=r"Write `nearest_gradient(Sigma, B)`: the **symmetric** matrix $A$ that minimises $E\,|V - A X|^2$. "
            r"`Sigma` is $E[X X^T]$ and `B` is $E[V X^T]$, both of shape `(d, d)`.",
            solution=gradient_velocity,
            cases=lambda rng: [(A @ A.T + np.eye(len(A)), A[::-1]) for A in (rng.normal(size=(d, d)) for d in (2, 5))],
            slips={
                "That is the best matrix without the restriction; it is not symmetric.": free_velocity,
                "The symmetric part is nearest entry by entry, but not in the mean over X.": symmetric_part,
                "A factor 2: on the right stands B + B^T, not its half.": lambda S, B: gradient_velocity(S, B) / 2,
            },
            difficulty=2,
        ),
        Exercise(
            id="rounds_needed",
            task="In the explorer choose the angle 120°, stretch 2 and gradient fields. After how many rounds is the "
            "cost for the first time within 1 % of the optimum? Bind the number to `rounds_needed`.",
            solution=lambda: rounds_needed(120.0, 2.0),
            slips={
                "After one round most of the rotation is gone, but not all.": lambda: 1,
                "After two it is 1.6 % above: one more.": lambda: 2,
                "After four it is, but it was before, too.": lambda: 4,
            },
            kind="experiment",
            answer="The excess falls by a large factor in each round: by 9 in the first, by more than 40 after it.",
        ),
        Exercise(
            id="why_stuck",
            task="A standard Gaussian is coupled with itself, turned by 60°. Why does the rectified flow, without the "
            "restriction, change nothing? (a) The coupling is optimal. (b) No two lines meet at the same time, so the "
            "mean velocity is that of the one line. (c) A flow cannot turn. Bind the letter to `why_stuck`.",
            solution=lambda: "b",
            slips={
                "Standing still would cost nothing, and also couple the two densities.": lambda: "a",
                "It can, and here it does: its paths are the lines of the coupling.": lambda: "c",
            },
            kind="think",
            answer="Where each place belongs to one line only, following the mean means following the line. Straight "
            "paths that do not cross are all that the rectified flow asks for.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The cost above the optimum over the rounds, with and without the restriction to gradients."""
    from paperlab.figures.curves import curves

    rounds_done, labels = np.arange(ROUNDS + 1), {"gradient": "gradient fields", "free": "no restriction"}
    return curves(
        {labels[name]: (rounds_done, result.excess[name]) for name in labels},
        title="Gradient fields find the optimal transport, free ones stay where they are",
        x_title="rounds",
        y_title="cost above the optimum",
        log_y=True,
    ).update_layout(xaxis_dtick=1, yaxis_dtick=1)


ANGLES, STRETCHES, MOST_ROUNDS, DRAWN = (0.0, 30.0, 60.0, 90.0, 120.0), (1.0, 2.0, 3.0), 4, 40
TIMES = tuple(round(0.1 * step, 1) for step in range(11))


def explorer_rounds(kind: str, angle: float, stretched: float):
    """The explorer's two covariances, and the maps after 0 to 4 rounds."""
    S00, S11 = np.diag([stretched, 1 / stretched]), np.diag([1 / stretched, stretched])
    return S00, S11, rounds(S00, rotated_coupling(S00, S11, plane_rotation(angle)), KINDS[kind], MOST_ROUNDS, 20)


def rounds_needed(angle: float, stretched: float) -> int:
    """The first round of gradient fields after which the cost is within 1 % of the optimum."""
    S00, S11, maps = explorer_rounds("gradient", angle, stretched)
    return next(k for k, M in enumerate(maps) if transport_cost(S00, M) <= 1.01 * bures_squared(S00, S11))


def explorer() -> Explorer:
    """Points of two Gaussians: the paths of one round, and the cost of all rounds."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer, Toggle

    # A spiral like a sunflower's fills the disc evenly
    spiral = np.sqrt(np.arange(DRAWN) / DRAWN) * np.exp(2.4j * np.arange(DRAWN))
    z = 2.2 * np.stack([spiral.real, spiral.imag], axis=1)
    circle = 2 * np.stack([np.cos(np.linspace(0, 2 * np.pi, 60)), np.sin(np.linspace(0, 2 * np.pi, 60))])

    def compute(context, t: float, round: int, gradient: bool, angle: float, stretched: float) -> dict:
        kind = "gradient" if gradient else "free"
        S00, S11, maps = context[kind, angle, stretched]
        # The free flow of the coupling itself follows its lines
        M, velocity = maps[max(round - 1, 0)], KINDS[kind if round else "free"]
        path = rectify_gaussian(S00, S00 @ M.T, S11, velocity, 20).states
        costs = {name: [transport_cost(S00, M) for M in context[name, angle, stretched][2]] for name in KINDS}
        paths = np.einsum("tij,nj->tni", path, z @ np.sqrt(S00))
        now = {"paths": paths, "now": paths[int(20 * t + 0.5)], "round": round, "cost": costs[kind][round]}
        return {**now, "costs": costs, "optimum": bures_squared(S00, S11), "target": np.sqrt(S11) @ circle}

    def draw(state) -> go.Figure:
        paths, k = state["paths"], np.arange(MOST_ROUNDS + 1)
        # Each path ends with a NaN, which lifts the pen
        x, y = np.concatenate([paths, np.full((1, DRAWN, 2), np.nan)]).transpose(2, 1, 0).reshape(2, -1)
        plane = [
            line("paths", x, y, theme.GREY, opacity=0.5),
            points("start", *paths[0].T, theme.GREEN, size=5),
            points("now", *state["now"].T, theme.ORANGE, symbol="diamond"),
            line("target, 2 deviations", *state["target"], theme.BLACK, dash="dot"),
        ]
        costs = [
            line("gradient fields", k, state["costs"]["gradient"], theme.BLUE, mode="lines+markers"),
            line("no restriction", k, state["costs"]["free"], theme.VERMILION, dash="dash"),
            line("optimum", k, np.full(len(k), state["optimum"]), theme.BLACK, dash="dashdot"),
            points("this round", [state["round"]], [state["cost"]], theme.PURPLE, size=14, symbol="square"),
        ]
        limits, rising = {"range": [-4.5, 4.5]}, {"range": [-0.3, 9.5]}
        left = Panel("paths of 40 points", plane, "first coordinate", "second coordinate", limits, limits, equal=True)
        right = Panel("cost after each round", costs, "rounds", "mean squared distance", {"range": [-0.2, 4.2]}, rising)
        return panels(left, right)

    def describe(values, state) -> str:
        paths, kind = state["paths"], "gradient" if values["gradient"] and values["round"] else "unrestricted"
        length = np.linalg.norm(np.diff(paths, axis=0), axis=2).sum(axis=0).mean()
        gone, apart = (np.linalg.norm(end - paths[0], axis=1).mean() for end in (state["now"], paths[-1]))
        return (
            f"Round {values['round']} with {kind} velocity: the cost is {state['cost']:.3f}, the optimum "
            f"{state['optimum']:.3f}. These paths are {length:.2f} long on average, their ends {apart:.2f} apart. "
            f"At time {values['t']:g} a point is {gone:.2f} from its start."
        )

    return Explorer(
        controls=(
            Choice("round", "rounds", tuple(range(MOST_ROUNDS + 1)), default=1, names={0: "0, the lines"}),
            Toggle("gradient", "gradient fields only", default=True),
            Choice("angle", "angle of the coupling", ANGLES, default=90.0, unit="°"),
            Choice("stretched", "stretch of the densities", STRETCHES, default=2.0),
            Choice("t", "time", TIMES, default=1.0),
        ),
        prepare=lambda: {setting: explorer_rounds(*setting) for setting in product(KINDS, ANGLES, STRETCHES)},
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Take gradient fields away: the paths are the straight lines of the coupling, in every round.",
            "Rounds 1, 2, 3: bent paths become straight ones, and the cost comes down to the optimum.",
            "Stretch 1: both densities are round, and standing still is optimal. One round finds it.",
        ),
        name="rectified_flow_ot",
    )
