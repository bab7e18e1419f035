r"""A kink in the loss is not a detail: gradient steps then do not converge, do not prune, and have another edge.

Networks with ReLU, and L1 penalties, have losses with kinks. Libraries return *some* slope there, and the steps look
like gradient descent. They are not: next to a kink the slope does not become small, so a step of constant length jumps
over the minimum and back, for ever. For an L1 penalty the jump is the learning rate times the penalty. A large penalty
therefore ends in large weights, and no weight is exactly 0. The remedy is old: a step that stops at the kink.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`x, \beta`        weights; :math:`\beta` in linear regression, ``(p,)``
:math:`\eta_t`          learning rate of step :math:`t`
:math:`g(x)`            the gradient where there is one, some slope at a kink; :math:`\operatorname{sign}(0) = 0`
:math:`\lambda`         L1 penalty
======================= ========================================================================================

The paper calls the steps :math:`x \leftarrow x - \eta_t g(x)` on a function with kinks NGDM, non-differentiable
gradient method. On :math:`\tfrac{1}{2n} \lVert X\beta - y \rVert^2 + \lambda \lVert \beta \rVert_1` they are

.. math:: \beta \leftarrow \beta - \eta \big( \tfrac1n X^T (X\beta - y) + \lambda \operatorname{sign}(\beta) \big);
   \qquad \lVert \beta \rVert_1 \to \text{about } p\, \eta \lambda / 2 \text{ for large } \lambda.

The proximal step (ISTA) moves along the first part only, then shrinks by :math:`\eta\lambda` and stops at 0.

Guarantee: on :math:`|x|` with constant :math:`\eta` the iterates end on a pair :math:`r, r - \eta`, never closer than
the smaller of the two, unless one of them is 0. With :math:`\eta_t` falling like :math:`1/\sqrt t` the best value
converges like :math:`1/\sqrt t`, up to a logarithm (convex functions). Proximal steps converge for :math:`\eta` below 2
over the largest eigenvalue of :math:`X^T X / n`.

Not reproduced: large networks, and the paper's discussion of RMSProp. The examples here are ours for the paper's three
mechanisms, except the lasso; its theorems were not compared with the text.

Reference: Siddharth Krishna Kumar: GD doesn't make the cut: Three ways that non-differentiability affects neural
network training, 2024, arXiv 2401.08426.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from paperlab.arguments import cost_matrix, finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def step_sizes(lr: float, steps: int, *, decreasing: bool = False) -> Float[np.ndarray, " steps"]:
    """Constant learning rates, or ``lr / sqrt(t)``, t = 1, 2, ... Raises ``ValueError`` for numbers not positive."""
    t = np.arange(1, whole_number("steps", steps, 1) + 1)
    return positive("lr", lr) / (np.sqrt(t) if decreasing else np.ones(steps))


def ngdm(
    gradient: Callable[[np.ndarray], np.ndarray],
    x: Float[np.ndarray, " ..."],
    lr: Float[np.ndarray, " steps"],
    *,
    proximal: Callable[[np.ndarray, float], np.ndarray] | None = None,
    record: Callable[[np.ndarray], object] = lambda x: None,
) -> tuple[Float[np.ndarray, " ..."], list]:
    """Steps along a gradient, or whatever stands in for it at kinks; with ``proximal``, proximal gradient descent.

    ``gradient(x)`` and ``proximal(z, eta)`` return arrays of the shape of ``x``. Returns the last iterate, and
    ``record(x)`` at the start and after each step. Raises ``ValueError`` for a start or rates that are not finite.
    """
    x, rates = np.array(x, dtype=np.float64), finite_array("lr", lr, ndim=1)
    if not np.isfinite(x).all():
        raise ValueError(f"x={x} is not finite")
    records = [record(x)]
    for eta in rates:
        # x <- x - eta_t g(x), then x <- prox(x, eta_t)
        x = x - eta * gradient(x)
        x = x if proximal is None else proximal(x, eta)
        records.append(record(x))
    return x, records


def soft_threshold(z: Float[np.ndarray, " ..."], t) -> Float[np.ndarray, " ..."]:
    """Every entry moved towards 0 by ``t``, and stopped there: the proximal step of ``t |z|``."""
    # sign(z) (|z| - t)_+
    return np.sign(z) * np.maximum(np.abs(z) - t, 0)


def fit_gradient(beta: Float[np.ndarray, "... p"], X, y) -> Float[np.ndarray, "... p"]:
    """The gradient of half the mean squared error of linear regression; ``X``: ``(n, p)``, ``y``: ``(n,)``."""
    # 1/n X^T (X beta - y)
    return (beta @ X.T - y) @ X / len(X)


def lasso(X, y, lam: Float[np.ndarray, " k"], start, lr, *, proximal: bool = False):
    """Linear regression with k L1 penalties, each from the same start ``(p,)``: by gradient steps, or proximal ones.

    Returns the weights at the end, ``(k, p)``. Raises ``ValueError`` for inputs that are not finite or a penalty
    below 0.
    """
    X, penalties = cost_matrix("X", X), finite_array("lam", lam, ndim=1)[:, None]
    if penalties.min() < 0:
        raise ValueError(f"lam={lam} must not be negative")
    beta = np.tile(start, (len(penalties), 1))

    def fit(b):
        return fit_gradient(b, X, y)

    def shrink(z, eta):
        return soft_threshold(z, eta * penalties)

    if proximal:
        # beta <- soft_threshold(beta - eta 1/n X^T (X beta - y), eta lambda)
        return ngdm(fit, beta, lr, proximal=shrink)[0]
    # g = 1/n X^T (X beta - y) + lambda sign(beta)
    return ngdm(lambda b: fit(b) + penalties * np.sign(b), beta, lr)[0]


def deviation_gradient(x: Float[np.ndarray, " d"], A, b, rounding: float = 0.0) -> Float[np.ndarray, " d"]:
    """A gradient of the mean absolute deviation ``1/n sum |A x - b|``; kinks are rounded off over ``+-rounding``."""
    residual = A @ x - b
    # Huber: the slope is r / delta for |r| < delta, sign(r) beyond
    slope = np.clip(residual / rounding, -1, 1) if rounding else np.sign(residual)
    return A.T @ slope / len(A)


def power_gradient(x: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The derivative of ``|x|^(3/2)``: convex, differentiable, and at 0 infinitely sharp."""
    return 1.5 * np.sign(x) * np.sqrt(np.abs(x))


def power_sharpness(x: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The second derivative of ``|x|^(3/2)``."""
    return 0.75 / np.sqrt(np.abs(x))


def product_gradient(w: Float[np.ndarray, "2 k"]) -> Float[np.ndarray, "2 k"]:
    """The gradient of ``1/2 (u u v v - 1)^2``: four layers of one unit each, with weights that are equal in pairs."""
    u, v = w
    return 2 * (u**2 * v**2 - 1) * u * v * np.stack([v, u])


def product_sharpness(w: Float[np.ndarray, "2 k"]) -> Float[np.ndarray, " k"]:
    """The largest eigenvalue of the Hessian of ``1/2 (u u v v - 1)^2``."""
    u, v = w
    a, b, c = 6 * u**2 * v**4 - 2 * v**2, 6 * u**4 * v**2 - 2 * u**2, 8 * u**3 * v**3 - 4 * u * v
    return (a + b) / 2 + np.sqrt((a - b) ** 2 / 4 + c**2)


def regression_problem(n: int, p: int, rng: np.random.Generator):
    """Inputs ``(n, p)``, targets with noise 0.1, the true weights, 5 of which are -1 or 1, and a start near 0."""
    X, beta = rng.normal(size=(n, p)), np.zeros(p)
    beta[:5] = rng.choice([-1.0, 1.0], size=5)
    return X, X @ beta + 0.1 * rng.normal(size=n), beta, 0.01 * rng.normal(size=p)


SAMPLES, INPUTS, RATE, PENALTIES = 50, 200, 0.05, np.logspace(-2, 1, 13)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Distances from the solution of a deviation problem over the steps; lasso weights; sharpness times half the rate.

    ``distance``: with kinks, rounded off, and with decreasing steps. ``lasso``: by method, one row a penalty of
    ``PENALTIES``. ``edge``: at the end of 200 runs on ``|x|^(3/2)`` and on a product of four weights.
    """

    distance: dict[str, Float[np.ndarray, " steps+1"]]
    lasso: dict[str, Float[np.ndarray, "penalties p"]]
    edge: dict[str, Float[np.ndarray, " runs"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Regression by absolute deviations, 40 samples; the lasso, 50 samples, 200 inputs; 200 runs in one dimension."""
    for_deviations, for_lasso, for_edge = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    A, truth = for_deviations.normal(size=(40, 8)), for_deviations.normal(size=8)

    def distances(lr, rounding):
        # The deviations can all be 0, so the truth is the only minimum, with kinks and without.
        return np.array(
            ngdm(
                lambda x: deviation_gradient(x, A, A @ truth, rounding), np.zeros(8), lr,
                record=lambda x: np.linalg.norm(x - truth),
            )[1]
        )  # fmt: skip

    X, y, _, start = regression_problem(SAMPLES, INPUTS, for_lasso)
    constant, falling = (step_sizes(RATE, 3000, decreasing=decreasing) for decreasing in (False, True))
    rates = np.exp(for_edge.uniform(np.log(0.02), np.log(0.1), size=200))
    # On the valley of solutions u v = 1, at a point that is 5 to 40 % too sharp for gradient descent, and beside it.
    sum_of_squares = for_edge.uniform(1.05, 1.4, size=200) / (2 * rates)
    u = np.sqrt((sum_of_squares + np.sqrt(sum_of_squares**2 - 4)) / 2)
    product = np.stack([u * (1 + 0.01 * for_edge.normal(size=200)), 1 / u])
    power = for_edge.normal(size=200)
    ones = np.ones(3000)
    return Experiment(
        distance={
            "kinks": distances(constant, 0.0),
            "rounded off": distances(constant, 0.1),
            "kinks, decreasing steps": distances(falling, 0.0),
        },
        lasso={
            "NGDM": lasso(X, y, PENALTIES, start, constant),
            "proximal": lasso(X, y, PENALTIES, start, constant, proximal=True),
            "NGDM, decreasing steps": lasso(X, y, PENALTIES, start, falling),
        },
        edge={
            "power": power_sharpness(ngdm(lambda x: rates * power_gradient(x), power, ones)[0]) * rates / 2,
            "product": product_sharpness(ngdm(lambda w: rates * product_gradient(w), product, ones)[0]) * rates / 2,
        },
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    # Zero cannot be shown on a logarithmic scale.
    end = {name: float(max(values[-1], 1e-16)) for name, values in result.distance.items()}
    norm = {name: np.abs(beta).sum(axis=1) for name, beta in result.lasso.items()}
    one, ten, tenth = (int(np.abs(PENALTIES - value).argmin()) for value in (1, 10, 0.1))
    growth = {name: float(values[ten] - values[one]) for name, values in norm.items()}
    zeros = {name: float((beta[tenth] == 0).sum()) for name, beta in result.lasso.items()}
    return (
        Claim(
            id="no_convergence",
            statement="At kinks, steps of constant length do not converge",
            source="first way: convergence",
            quantity="distance from the solution after 3000 steps",
            unit="",
            measured=end["kinks"],
            relation=">=",
            bound=1e-8,
            control=Control("the kinks rounded off over +-0.1", end["rounded off"], "assumption violated"),
            scale="log",
        ),
        Claim(
            id="paradox",
            statement="A larger L1 penalty ends in weights with a larger 1-norm",
            source="second way: L1 penalties",
            quantity="growth of the 1-norm of the weights when the penalty goes from 1 to 10",
            unit="",
            measured=growth["NGDM"],
            relation=">=",
            bound=20,
            control=Control("proximal steps, same learning rate", growth["proximal"], "baseline"),
        ),
        Claim(
            id="no_zeros",
            statement="Gradient steps on an L1 penalty set no weight to 0",
            source="second way: pruning",
            quantity="weights, of 200, that are exactly 0 at penalty 0.1",
            unit="weights",
            measured=zeros["NGDM"],
            relation="<=",
            bound=100,
            control=Control("proximal steps, same learning rate", zeros["proximal"], "baseline"),
        ),
        Claim(
            id="edge",
            statement="On |x|^(3/2), which is convex, oscillation comes with half the sharpness 2 / rate",
            source="third way: edge of stability",
            quantity="sharpness times half the learning rate at the end, mean of 200 runs",
            unit="",
            measured=float(result.edge["power"].mean()),
            relation="<=",
            bound=0.75,
            control=Control("a product of four weights", float(result.edge["product"].mean()), "assumption violated"),
        ),
        Observation(
            "The 1-norm at penalty 10, against inputs * rate * penalty / 2",
            float(norm["NGDM"][ten]),
            INPUTS * RATE * 10 / 2,
            "With a large penalty each weight jumps to and fro by rate * penalty; half of that is its mean size.",
        ),
        Observation(
            "The 1-norm at penalty 10 with steps that fall like 1 / sqrt(t), against constant steps",
            float(norm["NGDM, decreasing steps"][ten]),
            float(norm["NGDM"][ten]),
            "The paradox is one of the constant step. With decreasing steps the norm tends to 0, slowly.",
        ),
        Observation(
            "Distance from the solution after 3000 steps on kinks: decreasing steps against constant ones",
            end["kinks, decreasing steps"],
            end["kinks"],
            "Decreasing steps converge, like 1 / sqrt(t): far slower than the constant step on the rounded function.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def ngdm_step(beta, X, y, lam, eta):
        return beta - eta * (X.T @ (X @ beta - y) / len(X) + lam * np.sign(beta))

    def cases(rng):
        return [
            (rng.normal(size=p), rng.normal(size=(n, p)), rng.normal(size=n), 2.0, 0.1) for n, p in ((2, 2), (4, 6))
        ]

    return (
        Exercise(
            id="ngdm_step",
            task="Write `ngdm_step(beta, X, y, lam, eta)`: one gradient step on half the mean squared error of linear "
            "regression plus `lam` times the 1-norm of `beta`. Shapes: `beta` `(p,)`, `X` `(n, p)`, `y` `(n,)`.",
            solution=ngdm_step,
            cases=cases,
            slips={
                "That is the proximal step: it stops at 0. The plain one jumps over.": (
                    lambda beta, X, y, lam, eta: soft_threshold(ngdm_step(beta, X, y, 0, eta), eta * lam)
                ),
                "The penalty has the wrong sign: it must push towards 0.": lambda beta, X, y, lam, eta: ngdm_step(
                    beta, X, y, -lam, eta
                ),
                "The error is a mean over samples: divide by n.": lambda beta, X, y, lam, eta: (
                    beta - eta * (X.T @ (X @ beta - y) + lam * np.sign(beta))
                ),
                "That is the slope of a squared penalty: it is proportional to beta.": lambda beta, X, y, lam, eta: (
                    ngdm_step(beta, X, y, 0, eta) - eta * lam * beta
                ),
            },
            difficulty=1,
            minutes=10,
        ),
        Exercise(
            id="smallest_norm",
            task="In the explorer, with learning rate 0.05 and constant steps: for which penalty on the control are "
            "NGDM's weights smallest, in the 1-norm? Bind it to `smallest_norm`.",
            solution=smallest_norm,
            slips={
                "That is where the proximal steps are smallest; NGDM's curve has turned upwards by then.": lambda: 10.0,
                "There the penalty hardly acts. A little more of it helps.": lambda: 0.01,
            },
            difficulty=1,
            minutes=5,
            kind="experiment",
            answer="Below it the penalty shrinks the weights as it should; above it the jumps, which grow with the "
            "penalty, are larger than what is left of them.",
        ),
        Exercise(
            id="twice_as_wide",
            task="With a large penalty, gradient steps end with a 1-norm of 50. You double the number of weights and "
            "halve the learning rate. What will the 1-norm be? (a) 100. (b) 50. (c) 25. Bind the letter to "
            "`twice_as_wide`.",
            solution=lambda: "b",
            slips={
                "Each weight's jump is the learning rate times the penalty, so each is half as large now.": lambda: "a",
                "There are twice as many weights that jump.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="The 1-norm is about p * rate * penalty / 2: the factors 2 and 1/2 cancel. It measures the "
            "optimizer, not the data.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The 1-norm over the penalty: by gradient steps, by proximal ones, and half of all jumps."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels

    looks = {
        "NGDM": (theme.BLUE, "solid"),
        "NGDM, decreasing steps": (theme.GREEN, "dashdot"),
        "proximal": (theme.VERMILION, "dash"),
    }
    lines = [
        line(name, PENALTIES, np.maximum(np.abs(result.lasso[name]).sum(axis=1), 1e-9), colour, dash=dash)
        for name, (colour, dash) in looks.items()
    ]
    law = line("inputs × rate × penalty / 2", PENALTIES, INPUTS * RATE * PENALTIES / 2, theme.GREY, dash="dot")
    norms = {"type": "log", "range": [-2, 2.2], "dtick": 1}
    return panels(
        Panel("", [*lines, law], "penalty λ", "1-norm of the weights", {"type": "log", "dtick": 1}, norms),
        title="Beyond some penalty, more of it makes the weights larger",
    )


EXPLORER_PENALTIES, EXPLORER_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), (0.01, 0.02, 0.05, 0.1)
EXPLORER_STEPS = 400


def explorer_fit(eta: float, decreasing: bool, proximal: bool):
    """A lasso with 30 samples and 60 inputs after 400 steps: true weights, and those found, one row a penalty."""
    X, y, truth, start = regression_problem(30, 60, np.random.default_rng(0))
    lr = step_sizes(eta, EXPLORER_STEPS, decreasing=decreasing)
    return truth, lasso(X, y, EXPLORER_PENALTIES, start, lr, proximal=proximal)


def smallest_norm() -> float:
    """The explorer's penalty with which NGDM's weights are smallest, at learning rate 0.05."""
    return EXPLORER_PENALTIES[int(np.abs(explorer_fit(0.05, False, False)[1]).sum(axis=1).argmin())]


def explorer() -> Explorer:
    """A small lasso: the 1-norm over the penalty, and the weights at one penalty, by both kinds of step."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer, Toggle

    def prepare() -> dict:
        return {(eta, falls): explorer_fit(eta, falls, True)[1] for eta in EXPLORER_RATES for falls in (False, True)}

    def compute(context, lam: float, eta: float, decreasing: bool) -> dict:
        truth, beta = explorer_fit(eta, decreasing, False)
        row = EXPLORER_PENALTIES.index(lam)
        return {"truth": truth, "NGDM": beta, "proximal": context[eta, decreasing], "row": row}

    def draw(state) -> go.Figure:
        row, inputs = state["row"], np.arange(1, 61)
        norms, weights = [], [points("truth", inputs, state["truth"], theme.BLACK, symbol="line-ew-open", size=14)]
        looks = {"NGDM": (theme.BLUE, "solid", "circle"), "proximal": (theme.VERMILION, "dash", "diamond")}
        for name, (colour, dash, symbol) in looks.items():
            norm = np.maximum(np.abs(state[name]).sum(axis=1), 1e-9)
            norms.append(line(name, EXPLORER_PENALTIES, norm, colour, dash=dash))
            here = {"symbol": symbol, "showlegend": False}
            norms.append(points(name, [EXPLORER_PENALTIES[row]], [norm[row]], colour, size=11, **here))
            weights.append(points(name, inputs, state[name][row], colour, size=6, **here))
        return panels(
            Panel("size of the weights", norms, "penalty λ", "1-norm of the weights",
                  {"type": "log", "range": [-2.2, 1.2], "dtick": 1}, {"type": "log", "range": [-2, 2], "dtick": 1}),
            Panel("the weights at this penalty", weights, "input j", "βⱼ", {"range": [0, 61]}, {"range": [-1.3, 1.3]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        parts = []
        for name in ("NGDM", "proximal"):
            beta = state[name][state["row"]]
            parts.append(f"{name} ends with 1-norm {np.abs(beta).sum():.2f} and {(beta == 0).sum()} of 60 weights at 0")
        jump = values["lam"] * step_sizes(values["eta"], EXPLORER_STEPS, decreasing=values["decreasing"])[-1]
        return f"{'; '.join(parts)}. In the last step the penalty alone moves a weight of NGDM by {jump:.2g}."

    return Explorer(
        controls=(
            Choice("lam", "penalty λ", EXPLORER_PENALTIES, default=3.0),
            Choice("eta", "learning rate η", EXPLORER_RATES, default=0.05),
            Toggle("decreasing", "decreasing steps, η / √t"),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Raise the penalty from 0.01: NGDM's weights shrink, then grow; the proximal ones vanish.",
            "Lower the learning rate: the right end of NGDM's curve comes down in proportion.",
            "Let the steps decrease: the curves come closer, but still no weight of NGDM is 0.",
        ),
        name="nondifferentiability",
    )
