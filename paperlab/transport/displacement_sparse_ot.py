r"""Displacement-sparse neural optimal transport: maps that move each point along few coordinates.

A transport map is easier to understand when each point changes in few coordinates: a drug that acts on three genes
tells more than one that acts a little on all. The paper adds a penalty on the *displacement* of each point to the game
between two convex networks that learns a transport map. Its *smoothed count* of the moved coordinates leaves large
moves as they are, where the 1-norm shortens them. How strong the penalty is, is controlled during training: it grows
until few enough coordinates move.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`y, x`            points of the source and of the target, ``d`` coordinates
:math:`f, g`            convex functions of networks; :math:`T = \nabla g` is the map
:math:`z`               displacement :math:`T(y) - y`
:math:`\tau`            penalty: :math:`\sum_i |z_i|` or :math:`\sum_i (1 - e^{-z_i^2 / 2 \epsilon^2})`
:math:`\lambda`         its strength, ``lam``
======================= ========================================================================================

.. math:: \max_f \min_g\; E_y[f(\nabla g(y)) - \langle y, \nabla g(y)\rangle + \lambda\,\tau(\nabla g(y) - y)]
   - E_x[f(x)] .

For given points of equal mass, without networks, the pairing of least *elastic cost*
:math:`\tfrac12 |z|^2 + \lambda\,\tau(z)` is found exactly.

Guarantee, for that pairing: with growing :math:`\lambda` the mean of :math:`\tau` does not rise and the mean of
:math:`|z|^2 / 2` does not fall, and the latter is at most :math:`\lambda \max \tau` above its least value. For the
networks nothing is guaranteed; whether the map reaches the target must be measured.

Not reproduced: single-cell data, the simulated annealing of the strength once the budget is met, hundreds of
coordinates. The penalties, losses and the rule for the strength follow the official code, with the mean over the batch
in place of its sum.

Reference: Chen, Xie, Zhang: Displacement-Sparse Neural Optimal Transport, 2025, arXiv 2502.01889.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paperlab.arguments import finite_array, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.sliced import projected_w2, random_directions

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

Points = Float[np.ndarray, "n d"]


def l1(z):
    """The 1-norm over the last axis, of an array or a tensor."""
    return abs(z).sum(-1)


def smoothed_l0(z, eps: float = 0.3):
    """A smooth count of the entries that are not 0, over the last axis of an array or a tensor.

    Entries much smaller than ``eps`` hardly count, those above ``3 eps`` count as 1 and have no slope.
    """
    # tau(z) = sum_i 1 - exp(-z_i^2 / (2 eps^2))
    return (1 - np.e ** (-(z**2) / (2 * eps**2))).sum(-1)


def elastic_cost(Y: Points, X: Points, penalty: Callable, lam: float) -> Float[np.ndarray, "n m"]:
    """The cost of moving each row of ``Y`` to each row of ``X``: ``|z|^2 / 2 + lam * penalty(z)``.

    Raises ``ValueError`` for points of different dimensions or a negative ``lam``.
    """
    Y, X = finite_array("Y", Y, ndim=2), finite_array("X", X, ndim=2)
    if Y.shape[1] != X.shape[1]:
        raise ValueError(f"X has {X.shape[1]} coordinates, Y has {Y.shape[1]}")
    if not (np.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam={lam} must be finite and not negative")
    z = X[None, :, :] - Y[:, None, :]
    return (z**2).sum(-1) / 2 + lam * penalty(z)


def elastic_pairing(Y: Points, X: Points, penalty: Callable, lam: float) -> np.ndarray:
    """For each row of ``Y`` the row of ``X`` it goes to, in a one-to-one pairing of least elastic cost."""
    cost = elastic_cost(Y, X, penalty, lam)
    if len(cost) != cost.shape[1]:
        raise ValueError(f"X has {cost.shape[1]} points, Y has {len(cost)}: a pairing needs as many")
    return linear_sum_assignment(cost)[1]


def displacement_dimension(z, threshold: float):
    """In how many coordinates each point moves further than ``threshold``; ``z``: ``(..., n, d)``."""
    return (abs(z) > threshold).sum(-1) / 1.0


class ConvexNetwork:
    """Functions of ``d`` inputs that are convex for every ``theta``, with two hidden layers; and their gradients.

    ``theta``: ``(k, size)``, the parameters of ``k`` networks side by side. Points ``y``: ``(n, d)`` or ``(k, n, d)``.
    Convex, since the activation is convex and rises, and the weights between layers are cut off at 0.
    """

    def __init__(self, d: int, hidden: int = 16):
        self.shapes = [(d, hidden), (1, hidden), (hidden, hidden), (d, hidden), (1, hidden), (hidden, 1), (d, 1)]
        self.sizes = [rows * columns for rows, columns in self.shapes]
        self.scales = [d**-0.5, 0.5, 1 / hidden, d**-0.5, 0.5, 0.3 / hidden, 0.0]

    def start(self, k: int, generator: torch.Generator, starts: int = 1) -> Float[Tensor, "starts*k size"]:
        """Random parameters, ``starts`` times, each the same for ``k`` networks."""
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        parts = [scale * draw(starts, size) for scale, size in zip(self.scales, self.sizes, strict=True)]
        # A weight between layers that starts below 0 is cut off, has no slope and would stay there
        parts[2], parts[5] = parts[2].abs(), parts[5].abs()
        return torch.cat(parts, dim=1).repeat_interleave(k, dim=0).requires_grad_()

    def layers(self, theta, y):
        """The weights, and what enters the two activations."""
        parts = theta.split(self.sizes, dim=1)
        A0, b0, W, A1, b1, w, c = (part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))
        W, w = W.clamp(min=0), w.clamp(min=0)
        u0 = y @ A0 + b0
        # sigma(u) = (u + sqrt(1 + u^2)) / 2
        u1 = (u0 + (1 + u0**2).sqrt()) / 2 @ W + y @ A1 + b1
        return (A0, W, A1, w, c), u0, u1

    def value(self, theta, y) -> Float[Tensor, "k n"]:
        """``|y|^2 / 2`` plus the network: the map of the untrained network is nearly the identity."""
        (_, _, _, w, c), _, u1 = self.layers(theta, y)
        return ((u1 + (1 + u1**2).sqrt()) / 2 @ w + y @ c)[..., 0] + (y**2).sum(-1) / 2

    def gradient(self, theta, y) -> Float[Tensor, "k n d"]:
        """The gradient of ``value`` in ``y``, by the chain rule."""
        (A0, W, A1, w, c), u0, u1 = self.layers(theta, y)
        # sigma'(u) = (1 + u / sqrt(1 + u^2)) / 2
        e1 = (1 + u1 * (1 + u1**2).rsqrt()) / 2 * w.mT
        e0 = (1 + u0 * (1 + u0**2).rsqrt()) / 2 * (e1 @ W.mT)
        return y + e0 @ A0.mT + e1 @ A1.mT + c.mT


@dataclass(frozen=True)
class Arm:
    """One map to learn: its penalty, the strength at first, and how many coordinates may move on average."""

    penalty: Callable
    lam: float = 0.2
    budget: float = np.inf


@dataclass(frozen=True, eq=False)
class Maps:
    """Learned maps, one for each arm: the strengths, and the displacement dimension at each check.

    ``lam``: ``(checks, k)``, ``dimensions``: ``(checks, k)``. ``displacement(y)``: ``(n, d) -> (k, n, d)``.
    """

    displacement: Callable[[Points], Float[np.ndarray, "k n d"]]
    lam: Float[np.ndarray, "checks k"]
    dimensions: Float[np.ndarray, "checks k"]


def adam(theta, moments, gradient, step: int, lr: float = 7.5e-3) -> None:
    """One step of Adam with decays 0.5 and 0.9, as in the paper's code, in place."""
    m, v = moments
    m.lerp_(gradient, 0.5)
    v.lerp_(gradient**2, 0.1)
    with torch.no_grad():
        theta -= lr * (m / (1 - 0.5**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-8)


def train_maps(Y: Points, X: Points, arms: Sequence[Arm], seed=0, *, steps=110, inner=4, starts=1) -> Maps:
    """Learn one map from ``Y`` to ``X`` for each arm, side by side, from the same start on the same batches of 64.

    With several ``starts``, each has its own networks and batches: the rows are the arms of the first start, then those
    of the second, and so on. Each of ``steps`` rounds has ``inner`` steps for ``g`` and one for ``f``. From half of the
    rounds on, every fifth round, the strength of an arm grows by 1.5 if points move by more than 0.25 in more
    coordinates than its budget allows.
    Raises ``ValueError`` for bad samples or numbers out of range.
    """
    Y, X = (torch.as_tensor(finite_array(name, part, ndim=2)) for name, part in (("Y", Y), ("X", X)))
    if Y.shape[1] != X.shape[1]:
        raise ValueError(f"X has {X.shape[1]} coordinates, Y has {Y.shape[1]}")
    k, starts = len(arms), whole_number("starts", starts, 1)
    lam, budget = torch.tensor([[arm.lam, arm.budget] for arm in arms], dtype=torch.float64).repeat(starts, 1).T
    network, generator = ConvexNetwork(Y.shape[1]), torch.Generator().manual_seed(seed)
    f, g = (network.start(k, generator, starts) for _ in range(2))
    of_f, of_g = ([torch.zeros_like(f), torch.zeros_like(f)] for _ in range(2))
    strengths, dimensions = [], []

    def batch(points):
        return points[torch.randint(len(points), (starts, 64), generator=generator)].repeat_interleave(k, dim=0)

    for step in range(whole_number("steps", steps, 1)):
        for i in range(whole_number("inner", inner, 1)):
            y = batch(Y)
            T = network.gradient(g, y)
            z = (T - y).unflatten(0, (starts, k)).unbind(1)
            tau = torch.stack([arm.penalty(part) for arm, part in zip(arms, z, strict=True)], 1).flatten(0, 1)
            # min over g: E f(T) - <y, T> + lam tau(T - y)
            loss = (network.value(f.detach(), T) - (y * T).sum(-1) + lam[:, None] * tau).mean(dim=1).sum()
            adam(g, of_g, torch.autograd.grad(loss, g)[0], step * inner + i + 1)
        T = network.gradient(g, batch(Y)).detach()
        # max over f: E f(T) - E f(x)
        loss = (network.value(f, batch(X)) - network.value(f, T)).mean(dim=1).sum()
        adam(f, of_f, torch.autograd.grad(loss, f)[0], step + 1)
        if step % 5 == 0:
            z = network.gradient(g, Y[:256]).detach() - Y[:256]
            dimensions.append(displacement_dimension(z, 0.25).mean(dim=1))
            strengths.append(lam)
            # lam <- 1.5 lam while too many coordinates move
            lam = torch.where((dimensions[-1] > budget) & (step >= steps / 2), 1.5 * lam, lam)

    def displacement(y):
        y = torch.as_tensor(finite_array("y", y, ndim=2))
        return (network.gradient(g, y).detach() - y).numpy()

    return Maps(displacement, torch.stack(strengths).numpy(), torch.stack(dimensions).numpy())


POINTS, COORDINATES, REPLICATES, EXACT_LAM, BUDGET, SAMPLES, STARTS = 150, 5, 3, 2.0, 2.5, 10_000, 4
SHIFT = np.array([2.0, 2.0, 0.4, -0.4, 0.4, -0.4])
ARMS = {"held": Arm(smoothed_l0), "smoothed count": Arm(smoothed_l0, budget=BUDGET), "1-norm": Arm(l1, budget=BUDGET)}
PENALTIES = {"no penalty": lambda z: 0 * l1(z), "1-norm": l1, "smoothed count": smoothed_l0}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Exact pairings by penalty, means of three clouds; learned maps by arm, means of four starts, on fresh points.

    ``moved``: coordinates moved by more than 0.1; ``found``: share of points paired with their own image.
    ``dimensions``: coordinates moved by more than 0.25, at the checks; ``large``: mean move of the two coordinates that
    shift by 2; ``distance``: sliced distance of the moved points from the target.
    """

    moved: dict[str, float]
    found: dict[str, float]
    dimensions: dict[str, Float[np.ndarray, " checks"]]
    large: dict[str, float]
    distance: dict[str, float]


def sparse_moves(rng, n: int, d: int, size: float = 2.0, noise: float = 0.02) -> tuple[Points, Points]:
    """Normal points, and the same points each moved by ``size`` along one random coordinate, with a little noise."""
    Y, signs = rng.normal(size=(n, d)), rng.choice([-1.0, 1.0], n)
    X = Y + noise * rng.normal(size=(n, d))
    X[np.arange(n), rng.integers(0, d, n)] += size * signs
    return Y, X


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Exact pairings of 150 points in 5 dimensions; maps between two Gaussians in 6, learned from 10,000 samples."""
    for_exact, for_maps, for_training = np.random.SeedSequence(seed).spawn(3)
    rng, exact = np.random.default_rng(for_exact), {name: np.zeros(2) for name in PENALTIES}
    for _ in range(REPLICATES):
        Y, X = sparse_moves(rng, POINTS, COORDINATES)
        for name, penalty in PENALTIES.items():
            partner = elastic_pairing(Y, X, penalty, EXACT_LAM)
            moved = displacement_dimension(X[partner] - Y, 0.1).mean()
            exact[name] += np.array([moved, np.mean(partner == np.arange(POINTS))]) / REPLICATES
    rng = np.random.default_rng(for_maps)
    (Y, X), (fresh, target) = (rng.normal(size=(2, n, len(SHIFT))) for n in (SAMPLES, 1000))
    maps = train_maps(Y, X + SHIFT, list(ARMS.values()), int(for_training.generate_state(1)[0]), starts=STARTS)
    theta = random_directions((200,), len(SHIFT), rng)
    # From the rows of the maps to means over the starts, one for each arm
    z = maps.displacement(fresh).reshape(STARTS, len(ARMS), *fresh.shape)
    dimensions, large = maps.dimensions.reshape(-1, STARTS, len(ARMS)).mean(axis=1), z[..., :2].mean(axis=(0, 2, 3))
    distance = [[np.sqrt(projected_w2(fresh + each, target + SHIFT, theta).mean()) for each in part] for part in z]
    learned = dimensions.T, large.tolist(), np.mean(distance, axis=0).tolist()
    return Experiment(
        *({name: float(values[k]) for name, values in exact.items()} for k in range(2)),
        *(dict(zip(ARMS, values, strict=True)) for values in learned),
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    late = {name: float(values[-5:].mean()) for name, values in result.dimensions.items()}
    return (
        Claim(
            id="exact_moved",
            statement="Among exact pairings, the smoothed count finds sparser displacements than the 1-norm",
            source="smoothed l0 penalty against l1",
            quantity="coordinates in which a point moves, mean; the true number is 1",
            unit="",
            measured=result.moved["smoothed count"],
            relation="<=",
            bound=1.7,
            control=Control("the 1-norm, equally strong", result.moved["1-norm"], "baseline"),
        ),
        Claim(
            id="exact_found",
            statement="Sparsity identifies which point went where",
            source="interpretability of displacement-sparse maps",
            quantity="share of points paired with their own image",
            unit="",
            measured=result.found["smoothed count"],
            relation=">=",
            bound=0.75,
            control=Control("the 1-norm, equally strong", result.found["1-norm"], "baseline"),
        ),
        Claim(
            id="budget",
            statement="Raising the strength during training keeps a network's map near its budget of 2.5 coordinates",
            source="adaptive control of the sparsity in high dimensions",
            quantity="coordinates of 6 in which a point moves, mean of the last five checks of four starts",
            unit="",
            measured=late["smoothed count"],
            relation="<=",
            bound=4.2,
            control=Control("the same penalty with its strength held at 0.2", late["held"], "ablation"),
        ),
        Claim(
            id="large_moves",
            statement="With the same budget, the smoothed count leaves large moves as they are",
            source="smoothed l0 penalty against l1",
            quantity="mean move of the two coordinates that shift by 2, four starts",
            unit="",
            measured=result.large["smoothed count"],
            relation=">=",
            bound=1.65,
            control=Control("the 1-norm", result.large["1-norm"], "baseline"),
        ),
        Observation(
            "Sliced distance of the moved points from the target, same budget: smoothed count, 1-norm",
            result.distance["smoothed count"],
            result.distance["1-norm"],
            "Moves that are cut short do not arrive. Sparsity costs both: without it the map comes closer.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def cost(Y, X, lam, eps):
        return elastic_cost(Y, X, partial(smoothed_l0, eps=eps), lam)

    return (
        Exercise(
            id="elastic",
            task=r"Write `elastic(Y, X, lam, eps)`: the matrix of elastic costs "
            r"$\frac12|z|^2 + \lambda\sum_i(1 - e^{-z_i^2/(2\epsilon^2)})$, entry $(i, j)$ for moving row $i$ of `Y` "
            "`(n, d)` to row $j$ of `X` `(m, d)`.",
            solution=cost,
            cases=lambda rng: [
                (rng.normal(size=(n, d)), rng.normal(size=(m, d)), 0.7, 0.4) for n, m, d in ((2, 3, 2), (4, 2, 3))
            ],
            slips={
                "The squared length has the factor 1/2.": lambda Y, X, lam, eps: (
                    cost(Y, X, lam, eps) + elastic_cost(Y, X, l1, 0)
                ),
                "eps enters squared: exp(-z^2 / (2 eps^2)).": lambda Y, X, lam, eps: cost(Y, X, lam, eps**0.5),
                "Rows are points of Y, columns are points of X.": lambda Y, X, lam, eps: cost(X, Y, lam, eps),
                "That is the cost with the 1-norm.": lambda Y, X, lam, eps: elastic_cost(Y, X, l1, lam),
            },
        ),
        Exercise(
            id="strong_enough",
            task="In the explorer take the smoothed count of width 0.1. What is the smallest strength λ on the control "
            "with which a point moves in at most 1.1 coordinates on average? Bind it to `strong_enough`.",
            solution=strong_enough,
            slips={
                "With 0.5 it is still 1.35 coordinates.": lambda: 0.5,
                "With 1 it is 1.25 coordinates: one step more.": lambda: 1.0,
                "With 5 each point moves in one, but a smaller strength is enough.": lambda: 5.0,
            },
            kind="experiment",
            answer="With this strength two short moves cost more than one long one. The 1-norm never gets there: it "
            "sees the total length, and not the number of coordinates.",
        ),
        Exercise(
            id="why_short",
            task=r"A point would gain $\frac12 m^2$ by moving by $m = 3$: it minimises $\frac12(z - 3)^2 "
            r"+ \lambda\tau(z)$ with $\lambda = 1$. Where does it end with $\tau = |z|$, and where with the smoothed "
            "count of width 0.3? (a) At 2 and at 3. (b) At 3 and at 3. (c) At 2 and at 2. (d) At 3 and at 0. Bind the "
            "letter to `why_short`.",
            solution=lambda: "a",
            slips={
                "The 1-norm has slope 1 everywhere: it pulls at every move.": lambda: "b",
                "At z = 2 the smoothed count is 1 and flat: it does not pull back.": lambda: "c",
                "Staying costs 4.5; moving by 3 costs the count, 1.": lambda: "d",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="The slope of the 1-norm does not depend on the move, so all moves lose λ. The smoothed count has "
            "no slope at large moves: it decides whether to move, and not how far.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """How many coordinates move during training."""
    from paperlab.figures.curves import curves

    names = {"smoothed count, raised": "smoothed count", "1-norm, raised": "1-norm", "smoothed count, held": "held"}
    rounds = 5 * np.arange(len(result.dimensions["held"]))
    return curves(
        {label: (rounds, result.dimensions[name]) for label, name in names.items()}
        | {"budget": (rounds[[0, -1]], [BUDGET, BUDGET])},
        title="Raised step by step, a penalty keeps a map near its budget of moves",
        x_title="rounds of training",
        y_title="coordinates moved, of 6",
    )


EXPLORER_LAMS, WIDTHS, CROWD = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), (0.1, 0.2, 0.3, 1.0), 20


def explorer_moves(penalty: str, lam: float, eps: float) -> tuple[Points, Points]:
    """The explorer's points in the plane, and the displacements of their best pairing."""
    Y, X = sparse_moves(np.random.default_rng(1), CROWD, 2, size=1.5, noise=0.03)
    tau = partial(smoothed_l0, eps=eps) if penalty == "smoothed count" else l1
    return Y, X[elastic_pairing(Y, X, tau, lam)] - Y


def strong_enough() -> float:
    """The smallest strength in the explorer with which a point moves in at most 1.1 coordinates on average."""
    displacements = {lam: explorer_moves("smoothed count", lam, 0.1)[1] for lam in EXPLORER_LAMS}
    return next(lam for lam, z in displacements.items() if displacement_dimension(z, 0.1).mean() <= 1.1)


def explorer() -> Explorer:
    """Points in the plane, their best pairing, and what the move of one coordinate costs."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    grid = np.linspace(-2.5, 2.5, 101)

    def compute(context, penalty: str, lam: float, eps: float) -> dict:
        Y, z = explorer_moves(penalty, lam, eps)
        tau = smoothed_l0(grid[:, None], eps) if penalty == "smoothed count" else l1(grid[:, None])
        return {"Y": Y, "z": z, "moved": displacement_dimension(z, 0.1), "cost": grid**2 / 2 + lam * tau}

    def draw(state) -> go.Figure:
        Y, z, one = state["Y"], state["z"], state["moved"] < 1.5

        def path(chosen):
            # Each path ends with a NaN, which lifts the pen
            stops = np.stack([Y[chosen], (Y + z)[chosen], np.full((chosen.sum(), 2), np.nan)], axis=1)
            return stops.reshape(-1, 2).T

        cloud = [
            line("moves in one coordinate", *path(one), theme.BLUE),
            line("moves in both", *path(~one), theme.VERMILION, dash="dot"),
            points("start", *Y.T, theme.GREY, size=6),
            points("end", *(Y + z).T, theme.BLACK, symbol="diamond", size=6),
        ]
        paid = [
            line("squared length alone", grid, grid**2 / 2, theme.GREY, dash="dash"),
            line("with the penalty", grid, state["cost"], theme.GREEN),
        ]
        limits = {"range": [-4.2, 4.2]}
        return panels(
            Panel("the best pairing", cloud, "first coordinate", "second coordinate", limits, limits, equal=True),
            Panel("what one coordinate pays", paid, "its move z", "cost", {"range": [-2.5, 2.5]}, {"range": [-0.2, 8]}),
        )

    def describe(values, state) -> str:
        z, moved = state["z"], state["moved"]
        return (
            f"With the {values['penalty']} at strength {values['lam']:g}, {int((moved > 1.5).sum())} of "
            f"{len(z)} points move in both coordinates; on average a point moves in {moved.mean():.2f}. Half the mean "
            f"squared length is {(z**2).sum(1).mean() / 2:.3f}."
        )

    return Explorer(
        controls=(
            Choice("lam", "strength λ of the penalty", EXPLORER_LAMS, default=1.0),
            Choice("penalty", "penalty", ("smoothed count", "1-norm"), default="smoothed count"),
            Choice("eps", "width ε of the smoothed count", WIDTHS, default=0.1),
        ),
        prepare=lambda: None,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Strength 0: the cheapest pairing moves 15 of the 20 points in both coordinates.",
            "Raise the strength step by step: one slanted path after another turns along an axis.",
            "Width 1 is as wide as the moves are long: the smoothed count is no count any more.",
        ),
        name="displacement_sparse_ot",
    )
