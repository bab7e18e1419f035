r"""The loss jumps up and down, and one number only falls: how sharp the minimum is that gradient flow would reach.

With a large learning rate gradient descent does not descend. The loss oscillates, and so does the sharpness, the
largest eigenvalue of the Hessian. The paper looks at another point: stop now, continue with infinitely small steps, and
take the sharpness of the minimum where that ends. This *gradient flow solution (GFS) sharpness* falls in every step, in
a network with one neuron a layer provably so. It also says where training ends: just below 2 over the learning rate.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`w`               weights of a scalar network of depth :math:`D`, whose output is their product, ``(..., D)``
:math:`\pi(w)`          :math:`\prod_i w_i`; the loss is :math:`\frac12 (\pi(w) - 1)^2`
:math:`\eta`            learning rate
:math:`w^*`             where gradient flow from :math:`w` ends, a minimum
:math:`\phi(w)`         GFS sharpness: the sharpness at :math:`w^*`
======================= ========================================================================================

Gradient flow keeps the differences :math:`w_i^2 - w_j^2`. So :math:`w_i^{*2} = w_i^2 + t` with the one :math:`t` at
which the product is 1, and

.. math:: \phi(w) = \sum_i 1 / w_i^{*2}, \qquad
   (w_i^2 - w_j^2)^{\text{new}} = (w_i^2 - w_j^2) \left(1 - \eta^2 (\pi - 1)^2 \frac{\pi^2}{w_i^2 w_j^2}\right)

for a step of gradient descent: it brings the weights closer together, and the closer they are, the smaller is
:math:`\phi`.

Guarantee: if :math:`\phi(w) \le 2\sqrt2 / \eta` and no weight ever changes its sign, :math:`\phi` never rises. Beyond
scalar networks it is an observation. Here that is tested on squared regression, where :math:`w^*` is found by Newton's
method.

Not reproduced: the convolutional networks trained on images. The formulas were derived again; the exact region of the
theorem was not compared with the text, its condition on the signs is the one under which no run here breaks it.

Reference: Kreisler, Shpigel Nacson, Soudry, Carmon: Gradient Descent Monotonically Decreases the Sharpness of Gradient
Flow Solutions in Scalar Networks and Beyond, ICML 2023, arXiv 2305.13064.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def gradient_flow_solution(w: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """Where gradient flow from the weights of a scalar network ends, to 15 digits of the smallest weight's square.

    Raises ``ValueError`` for fewer than two weights, or where the flow ends at a saddle: the product is not positive
    and the two smallest weights are equal in size.
    """
    w = finite_array("w", w, ndim=np.ndim(w))
    if w.shape[-1:] < (2,):
        raise ValueError(f"w of shape {w.shape} must have two weights or more in its last axis")
    squares = np.sort(w**2, axis=-1)
    if ((w.prod(axis=-1) <= 0) & (squares[..., 0] == squares[..., 1])).any():
        raise ValueError(f"w={w}: the two smallest tie, the product is not positive: a saddle")
    above = w**2 - squares[..., :1]
    # Bisection for the smallest square s: prod_i (above_i + s) rises from 0 to at least 1 for s from 0 to 1
    low, high = np.zeros(w.shape[:-1]), np.ones(w.shape[:-1])
    for _ in range(60):
        middle = (low + high) / 2
        # prod_i w*_i^2 = 1
        large = (above + middle[..., None]).prod(axis=-1) > 1
        low, high = np.where(large, low, middle), np.where(large, middle, high)
    # The smallest weight takes the sign that makes the product positive, through 0 if need be
    smallest = np.arange(w.shape[-1]) == np.abs(w).argmin(axis=-1)[..., None]
    sign = np.where(smallest, products_of_others(np.sign(w)), np.sign(w))
    return sign * np.sqrt(above + high[..., None])


def gfs_sharpness(w: Float[np.ndarray, "... D"]) -> Float[np.ndarray, " ..."]:
    """GFS sharpness of a scalar network; errors as for ``gradient_flow_solution``."""
    # phi(w) = sum_i 1 / w*_i^2
    return (1 / gradient_flow_solution(w) ** 2).sum(axis=-1)


def products_of_others(w: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """The product of all weights but one, for each one: the gradient of the network's output."""
    # dpi / dw_i = prod_{j != i} w_j
    return np.stack([np.delete(w, i, axis=-1).prod(axis=-1) for i in range(w.shape[-1])], axis=-1)


def sharpness(w: Float[np.ndarray, "... D"]) -> Float[np.ndarray, " ..."]:
    """The largest eigenvalue of a scalar network's Hessian, at the weights themselves."""
    slope = products_of_others(w)
    # H_ij = dpi/dw_i dpi/dw_j + (pi - 1) d^2 pi / dw_i dw_j, where the second derivatives are products of D - 2 weights
    H = slope[..., :, None] * slope[..., None, :]
    residual = w.prod(axis=-1) - 1
    for i in range(w.shape[-1]):
        second = products_of_others(np.delete(w, i, axis=-1))
        H[..., i, np.arange(w.shape[-1]) != i] += residual[..., None] * second
    return np.linalg.eigvalsh(H)[..., -1]


def gradient_descent(w: Float[np.ndarray, "... D"], lr, steps: int) -> Float[np.ndarray, "steps+1 ... D"]:
    """The weights of scalar networks in every step, with one learning rate each. Runs that diverge become NaN or
    infinite. Raises ``ValueError`` for weights that are not finite, a rate or number of steps that is not positive.
    """
    w = finite_array("w", w, ndim=np.ndim(w))
    lr, path = np.asarray(lr, dtype=np.float64), [w]
    positive("lr", lr.min())
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(whole_number("steps", steps, 1)):
            # w_i <- w_i - eta (pi - 1) prod_{j != i} w_j
            w = w - lr[..., None] * (w.prod(axis=-1, keepdims=True) - 1) * products_of_others(w)
            path.append(w)
    return np.array(path)


def regression_flow_solution(u, v, X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]):
    """Where gradient flow of squared regression ends: ``u``, ``v`` ``(k, d)`` of ``f(x) = sum_j (u_j^2 - v_j^2) x_j``.

    The flow multiplies ``u_j`` by ``exp(-2 s_j)`` and ``v_j`` by ``exp(2 s_j)``, with ``s`` in the span of the inputs:
    ``s = X^T nu``. The ``nu`` that fits all targets is the minimum of a convex function, found by Newton's method with
    step halving. Raises ``ValueError`` for bad shapes and ``RuntimeError`` if 60 steps do not suffice, as for targets
    that cannot be fitted.
    """
    u, v, X = finite_array("u", u, ndim=2), finite_array("v", v, ndim=2), finite_array("X", X, ndim=2)
    y = finite_array("y", y, ndim=1)
    nu = np.zeros((len(u), len(y)))

    def objective(nu):
        grown = np.exp(4 * nu @ X)
        return ((u**2 / grown + v**2 * grown) / 4).sum(axis=-1) + nu @ y

    for _ in range(60):
        grown = np.exp(4 * nu @ X)
        a, b = u**2 / grown, v**2 * grown
        # gradient: y - X (u*^2 - v*^2);  Hessian: 4 X diag(u*^2 + v*^2) X^T
        gradient = y - (a - b) @ X.T
        if np.abs(gradient).max() < 1e-10 * max(1.0, np.abs(y).max()):
            return u / np.sqrt(grown), v * np.sqrt(grown)
        H = 4 * (X * (a + b)[:, None, :]) @ X.T
        step = -np.linalg.solve(H, gradient[:, :, None])[:, :, 0]
        slope, before, length = (gradient * step).sum(axis=-1), objective(nu), np.ones(len(u))
        for _ in range(30):
            with np.errstate(over="ignore"):
                short = objective(nu + length[:, None] * step) <= before + 1e-4 * length * slope + 1e-12 * abs(before)
            length = np.where(short, length, length / 2)
        nu = nu + length[:, None] * step
    raise RuntimeError("Newton's method found no weights that fit the targets in 60 steps")


def regression_sharpness(u, v, X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The largest eigenvalue of the Hessian of squared regression, half the mean squared error, at these weights."""
    slopes = np.concatenate([2 * u[:, None, :] * X, -2 * v[:, None, :] * X], axis=-1)
    # H = 1/n sum_i (grad f_i grad f_i^T + (f_i - y_i) diag(2 x_i, -2 x_i))
    H = slopes.swapaxes(1, 2) @ slopes / len(X)
    bend = 2 * ((u**2 - v**2) @ X.T - y) @ X / len(X)
    diagonal = np.arange(H.shape[-1])
    H[:, diagonal, diagonal] += np.concatenate([bend, -bend], axis=-1)
    return np.linalg.eigvalsh(H)[:, -1]


def regression_descent(u, v, X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], lr: float, steps: int):
    """Gradient descent on squared regression: ``u`` and ``v`` ``(d,)`` in every step, ``(2, steps + 1, d)``. Raises
    ``ValueError`` for a rate or number of steps that is not positive.
    """
    path, lr = [(u, v)], positive("lr", lr)
    for _ in range(whole_number("steps", steps, 1)):
        # g = 2/n X^T (f - y);  u <- u - eta g u,  v <- v + eta g v
        g = 2 * X.T @ (X @ (u**2 - v**2) - y) / len(X)
        u, v = u - lr * g * u, v + lr * g * v
        path.append((u, v))
    return np.array(path).swapaxes(0, 1)


DEPTHS, RUNS, STEPS = (2, 3, 4), 60, 200


def rises(values: Float[np.ndarray, "steps ..."]) -> np.ndarray:
    """Whether the number rose in each step, by more than rounding."""
    return values[1:] > values[:-1] * (1 + 1e-8)


def regression_run(u, v, X, y, edge: float) -> Float[np.ndarray, "2 steps+1"]:
    """Sharpness and GFS sharpness while a squared regression is trained for 200 steps.

    ``edge`` is the learning rate times the GFS sharpness at the start.
    """
    first = regression_sharpness(*regression_flow_solution(u[None], v[None], X, y), X, y)[0]
    path = regression_descent(u, v, X, y, edge / first, STEPS)
    solution = regression_flow_solution(*path, X, y)
    return np.array([regression_sharpness(*path, X, y), regression_sharpness(*solution, X, y)])


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs of scalar networks of depth 2 to 4, and of squared regression.

    ``rose``: whether GFS sharpness and sharpness ever rose, in runs whose weights stay positive. ``first_step``:
    whether GFS sharpness rose in the first step, for learning rates within and beyond the theorem's. ``ends``: learning
    rate times GFS sharpness, first and last, ``(2, runs)``, of the runs with positive weights. ``edge``: the same at
    the end of runs from 2.1 near minima, with the rate and a tenth of it. ``path``: sharpness and GFS sharpness of one
    such run, ``(2, steps + 1)``, times the rate. ``regression``: both, for each run.
    """

    rose: dict[str, Float[np.ndarray, " runs"]]
    first_step: dict[str, Float[np.ndarray, " starts"]]
    ends: Float[np.ndarray, "2 runs"]
    edge: dict[str, Float[np.ndarray, " runs"]]
    path: Float[np.ndarray, "2 steps+1"]
    regression: Float[np.ndarray, "runs 2 steps+1"]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """180 scalar networks from random weights, 200 first steps, 180 runs to the edge, 10 squared regressions."""
    for_runs, for_steps, for_edge, for_regression = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    rose, edge, ends = {"GFS sharpness": [], "sharpness": []}, {0.1: [], 1: []}, []
    for depth in DEPTHS:
        w = for_runs.uniform(0.3, 2.5, size=(RUNS, depth))
        eta = for_runs.uniform(0.5, 2 * np.sqrt(2), size=RUNS) / gfs_sharpness(w)
        path = gradient_descent(w, eta, STEPS)
        kept = ((path > 0) & (path < 1e3)).all(axis=(0, 2))
        phi = gfs_sharpness(path[:, kept])
        for name, values in (("GFS sharpness", phi), ("sharpness", sharpness(path[:, kept]))):
            rose[name].append(rises(values).any(axis=0).astype(float))
        ends.append(eta[kept] * phi[[0, -1]])
        minima = gradient_flow_solution(for_edge.uniform(0.3, 2.5, size=(RUNS // 2, depth)))
        near = minima * (1 + for_edge.uniform(-0.02, 0.02, size=(RUNS // 2, 1)) / depth)
        eta_near = 2.1 / gfs_sharpness(near)
        for share, found in edge.items():
            path = gradient_descent(near, share * eta_near, 5 * STEPS)
            found.append(eta_near * gfs_sharpness(path[-1]))
    # The last of them: full rate, depth 4
    shown = path[: STEPS + 1, 0]
    small, first_step = for_steps.uniform(0.05, 0.6, size=(100, 2)), {}
    for name, low, high in (("within", 0.5, 2 * np.sqrt(2)), ("beyond", 4.0, 6.0)):
        eta = for_steps.uniform(low, high, size=len(small)) / gfs_sharpness(small)
        first_step[name] = rises(gfs_sharpness(gradient_descent(small, eta, 1)))[0].astype(float)
    regression = []
    for at in np.linspace(2.0, 2.3, 10):
        X, start = for_regression.normal(size=(8, 16)), 0.5 * for_regression.normal(size=(2, 1, 16))
        y = X @ np.where(np.arange(16) < 3, 1.0, 0.0)
        minimum = np.array(regression_flow_solution(*start, X, y))[:, 0]
        u, v = minimum * (1 + 0.02 * for_regression.normal(size=(2, 16)))
        regression.append(regression_run(u, v, X, y, at))
    return Experiment(
        rose={name: np.concatenate(values) for name, values in rose.items()},
        first_step=first_step,
        ends=np.concatenate(ends, axis=1),
        edge={"full": np.concatenate(edge[1]), "tenth": np.concatenate(edge[0.1])},
        path=eta_near[0] * np.array([sharpness(shown), gfs_sharpness(shown)]),
        regression=np.array(regression),
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    rose = {name: 100 * float(values.mean()) for name, values in result.rose.items()}
    first = {name: 100 * float(values.mean()) for name, values in result.first_step.items()}
    now, flow_end = (100 * float(rises(values.T).mean()) for values in result.regression.swapaxes(0, 1))
    return (
        Claim(
            id="monotone",
            statement="In scalar networks whose weights stay positive the GFS sharpness never rises",
            source="theorem on scalar networks",
            quantity="share of the runs in which the number rises at least once",
            unit="%",
            measured=rose["GFS sharpness"],
            relation="<=",
            bound=40,
            control=Control("sharpness at the weights themselves, same runs", rose["sharpness"], "baseline"),
        ),
        Claim(
            id="region",
            statement="Learning rates up to 2 sqrt(2) / phi, as the theorem asks: beyond, GFS sharpness rises",
            source="region of the theorem",
            quantity="share of 100 first steps, depth 2, small weights, in which GFS sharpness rises",
            unit="%",
            measured=first["within"],
            relation="<=",
            bound=50,
            control=Control("learning rates from 4 / phi to 6 / phi", first["beyond"], "assumption violated"),
        ),
        Claim(
            id="edge",
            statement="Started above it, training comes down to the edge of stability, 2 / learning rate",
            source="convergence to the edge of stability",
            quantity="mean GFS sharpness at the end, times the rate; all starts near minima, at 2.1",
            unit="",
            measured=float(result.edge["full"].mean()),
            relation="<=",
            bound=2,
            control=Control("a tenth of the learning rate", float(result.edge["tenth"].mean()), "ablation"),
        ),
        Claim(
            id="regression",
            statement="In squared regression GFS sharpness hardly ever rises, either",
            source="experiments beyond scalar networks",
            quantity="share of all steps in which the number rises",
            unit="%",
            measured=flow_end,
            relation="<=",
            bound=20,
            control=Control("sharpness at the weights themselves, same runs", now, "baseline"),
        ),
        Observation(
            "GFS sharpness at the end, times the rate, of the runs from near minima, at 2.1: smallest, largest",
            float(result.edge["full"].min()),
            float(result.edge["full"].max()),
            "They end at most as far below 2 as they began above. Near the flattest minimum of all, little can fall.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def falls(ratio):
        w, eta = explorer_start(4.0, 0.9, ratio)
        phi = gfs_sharpness(gradient_descent(w, eta, EXPLORER_STEPS))
        return phi[-1] < 0.8 * phi[0]

    return (
        Exercise(
            id="two_weights",
            task="Write `two_weights(w1, w2)`: the GFS sharpness of the network with output `w1 * w2` and target 1, in "
            "closed form. Return a number.",
            solution=lambda w1, w2: float(gfs_sharpness(np.array([w1, w2]))),
            cases=lambda rng: [(2.0, 0.5), (2.0, 0.1), (0.3, 1.2), *map(tuple, rng.uniform(0.2, 2, size=(3, 2)))],
            slips={
                "Those are the weights now: follow the flow to its end first.": lambda w1, w2: w1**2 + w2**2,
                "The flow keeps the difference of the squares, not of the weights.": lambda w1, w2: np.hypot(
                    w1 - w2, 2
                ),
                "Almost: (a + b)^2 = (a - b)^2 + 4ab, with ab = 1.": lambda w1, w2: np.hypot(w1**2 - w2**2, 1),
            },
            difficulty=2,
            minutes=15,
        ),
        Exercise(
            id="first_rate",
            task="In the explorer, from a difference of squares of 4 and a product of 0.9: which is the smallest "
            "learning rate on the control, in units of 1 / φ, with which φ falls by more than 20 %? Bind the number to "
            "`first_rate`.",
            solution=lambda: next(ratio for ratio in RATIOS if falls(ratio)),
            slips={
                "2.1 is the first above 2, and there φ falls, from 4.47 to 4.01. Is that 20 %?": lambda: 2.1,
                "With the largest rate φ falls most, but a smaller one suffices.": lambda: RATIOS[-1],
            },
            difficulty=1,
            minutes=5,
            kind="experiment",
            answer="Below 2 / φ hardly anything happens. Above, φ falls until it is below 2 / η, and a larger rate has "
            "farther to go.",
        ),
        Exercise(
            id="stop_early",
            task="Gradient descent with a large rate bounces: its loss rises and falls. You stop it after t steps and "
            "go on with a tiny learning rate until the loss is 0. For which t is the minimum that you reach flattest? "
            "(a) For the t with the smallest loss. (b) For the t with the smallest sharpness. (c) For the largest t. "
            "Bind the letter to `stop_early`.",
            solution=lambda: "c",
            slips={
                "The loss at t says how far the minimum is, not how flat.": lambda: "a",
                "The sharpness at t swings with the bounces; the minimum is another point.": lambda: "b",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="Tiny steps lead to a minimum of sharpness phi(w_t), and phi never rises: later is never sharper.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """One run: sharpness and GFS sharpness over the steps; all runs: where they start and where they end."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    steps = np.arange(STEPS + 1)
    one = [
        line("sharpness", steps, result.path[0], theme.VERMILION, dash="dot"),
        line("GFS sharpness", steps, result.path[1], theme.BLUE),
        line("edge of stability", steps[[0, -1]], [2, 2], theme.BLACK, dash="dash"),
    ]
    every = [
        points("all runs", *result.ends, theme.BLUE, size=6),
        line("no change", [0, 3], [0, 3], theme.GREY, dash="longdash"),
        line("edge of stability", [0, 3], [2, 2], theme.BLACK, dash="dash", showlegend=False),
    ]
    return panels(
        Panel("", one, "steps", "sharpness · learning rate η", {"range": [0, 100]}, {"range": [1.7, 2.4]}),
        Panel("", every, "GFS sharpness · η at the start", "at the end", {"range": [0, 3]}, {"range": [0, 3]}),
        title="The sharpness swings, the sharpness of the flow's end falls below 2 / learning rate",
    )


EXPLORER_STEPS, RATIOS = 60, (0.5, 1.0, 1.9, 2.1, 2.3, 2.5, 2.7)


def explorer_start(difference: float, product: float, ratio: float):
    """Two weights with this difference of squares and this product, and the learning rate ``ratio`` / phi."""
    first = np.sqrt((difference + np.sqrt(difference**2 + 4 * product**2)) / 2)
    w = np.array([first, product / first])
    return w, ratio / gfs_sharpness(w)


def explorer() -> Explorer:
    """Two weights: gradient descent in the plane, where gradient flow from each point ends, and both sharpnesses."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points, segments
    from paperlab.widgets import Choice, Explorer

    def compute(context, difference: float, product: float, ratio: float) -> dict:
        w, eta = explorer_start(difference, product, ratio)
        path = gradient_descent(w, eta, EXPLORER_STEPS)
        return {
            "path": path, "ends": gradient_flow_solution(path), "edge": 2 / eta, "sharpness": sharpness(path),
            "phi": gfs_sharpness(path),
        }  # fmt: skip

    def draw(state) -> go.Figure:
        steps, curve = np.arange(EXPLORER_STEPS + 1), np.linspace(0.3, 3, 100)
        plane = [
            line("minima", curve, 1 / curve, theme.BLACK),
            line("gradient descent", *state["path"].T, theme.VERMILION, dash="dot", mode="lines+markers"),
            segments(state["path"], state["ends"], width=1, opacity=0.5),
            points("ends of gradient flow", *state["ends"].T, theme.BLUE, size=7),
        ]
        curves = [
            line("sharpness", steps, state["sharpness"], theme.VERMILION, dash="dot"),
            line("GFS sharpness", steps, state["phi"], theme.BLUE),
            line("2 / learning rate", steps[[0, -1]], [state["edge"]] * 2, theme.GREY, dash="dash"),
        ]
        return panels(
            Panel("the two weights", plane, "w₁", "w₂", {"range": [0.6, 2.5]}, {"range": [-0.4, 1.5]}, equal=True),
            Panel("sharpness", curves, "steps", "eigenvalue", {}, {"range": [0, 7]}),
        )

    def describe(values, state) -> str:
        eta, phi = 2 / state["edge"], state["phi"]
        return (
            f"Learning rate η = {eta:.2f}. In {EXPLORER_STEPS} steps the sharpness rises "
            f"{int(rises(state['sharpness']).sum())} times, the GFS sharpness φ {int(rises(phi).sum())} times: it goes "
            f"from {phi[0]:.2f} to {phi[-1]:.2f}, that is from {eta * phi[0]:.2f} / η to {eta * phi[-1]:.2f} / η."
        )

    return Explorer(
        controls=(
            Choice("ratio", "learning rate, in units of 1 / φ", RATIOS, default=2.3),
            Choice("difference", "first w₁² - w₂²", (1.0, 2.0, 3.0, 4.0), default=4.0),
            Choice("product", "first w₁ w₂", (0.2, 0.5, 0.9, 1.1, 1.5), default=0.9),
        ),
        prepare=lambda: None,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Lower the learning rate below 2 / φ: one small move, then nothing. The edge is out of reach.",
            "Raise it to 2.7: the blue dots march along the curve of minima, towards its middle.",
            "Set the first difference to 1 and the rate to 2.5: every minimum is too sharp, and it bounces for ever.",
        ),
        name="gradient_flow_sharpness",
    )
