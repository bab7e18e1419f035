r"""Lion: the sign of a momentum, with weight decay that is a wall.

Lion was found by a program search: it moves every weight by the same amount, the learning rate, in the direction of the
sign of a momentum, and shrinks the weights a little in every step. The paper asks what it minimises. Not the loss plus
a penalty: the loss *on a box*. Weight decay :math:`\lambda` keeps every weight within :math:`1/\lambda`, first by
pulling it there exponentially fast, then by never letting it out, while the sign momentum minimises the loss inside.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`x, m`            weights and momentum
:math:`g`               gradient :math:`\nabla f(x)`
:math:`\eta, \lambda`   learning rate ``lr``, weight decay
:math:`\beta_1,\beta_2` ``betas``: how much of the old momentum the step and the new momentum keep
:math:`\kappa`          a convex function; :math:`\nabla\kappa` is the sign for :math:`\kappa = \|\cdot\|_1`
:math:`\kappa^*`        its conjugate: for :math:`\|\cdot\|_1` it is 0 in the box :math:`|y_i| \le 1`, infinite outside
======================= ========================================================================================

One step: :math:`c = \beta_1 m + (1 - \beta_1) g`, then :math:`x \leftarrow x - \eta(\nabla\kappa(c) + \lambda x)`, then
:math:`m \leftarrow \beta_2 m + (1 - \beta_2) g`. In small steps this becomes
:math:`\dot m = -\alpha g - \gamma m`,
:math:`\dot x = \nabla\kappa(m - \varepsilon(\alpha g + \gamma m)) - \lambda x` (the sign of :math:`m` is turned).

Guarantee: along that flow, for differentiable :math:`f`, convex :math:`\kappa` and :math:`\varepsilon\gamma \le 1`,

.. math:: H = \alpha f(x) + \tfrac{\gamma}{\lambda} \kappa^*(\lambda x) + \tfrac{1 - \varepsilon\gamma}{1 +
   \varepsilon\lambda} \left(\kappa^*(\lambda x) + \kappa(m) - \lambda m^T x\right)

never rises. So the flow minimises :math:`\alpha f + \tfrac{\gamma}{\lambda}\kappa^*(\lambda x)`: for Lion, the loss on
the box. Outside the box a step shrinks the distance to it by at least :math:`1 - \eta\lambda`, whatever the gradient.

Not reproduced: training of vision and language models. The ordinary differential equation and its constants were
checked numerically; the paper's text was not at hand.

Reference: Chen, Liu, Liang, Liu: Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts, ICLR 2024,
arXiv 2310.05898.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def unit_direction(c: Tensor) -> Tensor:
    """The gradient of the Euclidean norm: the direction of ``c``, and 0 at 0. Its ball is the Euclidean one."""
    return c / c.norm().clamp_min(torch.finfo(c.dtype).tiny)


class Lion(torch.optim.Optimizer):
    """Lion with decoupled weight decay, and Lion-kappa with another ``direction``.

    ``lr``: learning rate, how far each weight moves in a step. ``betas``: in [0, 1). ``weight_decay``: at least 0; the
    weights end within ``1 / weight_decay`` in the norm that belongs to ``direction``, the gradient of kappa:
    ``torch.sign`` (the default, the largest absolute weight) or ``unit_direction`` (the Euclidean norm, of each
    parameter tensor by itself).
    Raises ``ValueError`` for values out of range.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        direction: Callable[[Tensor], Tensor] = torch.sign,
    ):
        positive("lr", lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must lie in [0, 1)")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay={weight_decay} must be at least 0")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "direction": direction})

    @torch.no_grad()
    def step(self, closure=None):
        """One step on every parameter that has a gradient; returns the loss of ``closure``, if one is given."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
            for x in (x for x in group["params"] if x.grad is not None):
                m = self.state[x].setdefault("momentum", torch.zeros_like(x))
                # c = beta1 m + (1 - beta1) g
                c = beta1 * m + (1 - beta1) * x.grad
                # x <- x - eta (grad kappa(c) + lambda x)
                x -= lr * (group["direction"](c) + decay * x)
                # m <- beta2 m + (1 - beta2) g
                m.mul_(beta2).add_(x.grad, alpha=1 - beta2)
        return loss


@dataclass(frozen=True, eq=False)
class Flow:
    """Lion's flow from several starts: values of ``f`` and of the Lyapunov function ``H`` over time, ``(steps, k)``."""

    f: Float[np.ndarray, "steps k"]
    H: Float[np.ndarray, "steps k"]


def lion_flow(
    Q: Float[np.ndarray, "d d"],
    b: Float[np.ndarray, " d"],
    x: Float[np.ndarray, "k d"],
    m: Float[np.ndarray, "k d"],
    *,
    weight_decay: float,
    epsilon: float = 0.3,
    gamma: float = 1.0,
    smoothing: float = 0.5,
    dt: float = 2e-3,
    steps: int = 2000,
) -> Flow:
    """The flow of ``f(x) = x^T Q x / 2 - b^T x`` by explicit Euler steps, with ``alpha = 1``.

    ``kappa(z) = sum sqrt(z_i^2 + e^2)``, ``e`` = ``smoothing``, is the 1-norm rounded off, so that everything is
    differentiable; its conjugate is ``-e sum sqrt(1 - y_i^2)`` in the box. ``x``, ``m``: k starts, strictly inside.
    Raises ``ValueError`` if a start is not inside ``|x_i| < 1 / weight_decay``, or ``epsilon * gamma > 1``.
    """
    lam, e = positive("weight_decay", weight_decay), positive("smoothing", smoothing)
    x, m = finite_array("x", x, ndim=2).copy(), finite_array("m", m, ndim=2).copy()
    if np.abs(lam * x).max() >= 1:
        raise ValueError(f"x has an entry of size {np.abs(x).max():g}; the box is |x_i| < {1 / lam:g}")
    if epsilon * gamma > 1:
        raise ValueError(f"epsilon={epsilon} times gamma={gamma} must be at most 1, or H may rise")
    f, H = (np.empty((whole_number("steps", steps, 1), len(x))) for _ in range(2))
    for t in range(steps):
        g = x @ Q - b
        f[t] = 0.5 * ((x @ Q) * x).sum(axis=1) - x @ b
        kappa, conjugate = np.sqrt(m**2 + e**2).sum(axis=1), -e * np.sqrt(1 - (lam * x) ** 2).sum(axis=1)
        # H = f + gamma/lambda kappa*(lambda x) + (1 - eps gamma)/(1 + eps lambda) (kappa*(lambda x) + kappa(m) - ...)
        mixed = conjugate + kappa - lam * (m * x).sum(axis=1)
        H[t] = f[t] + gamma / lam * conjugate + (1 - epsilon * gamma) / (1 + epsilon * lam) * mixed
        # dm/dt = -g - gamma m,  dx/dt = grad kappa(m - eps (g + gamma m)) - lambda x
        c = m - epsilon * (g + gamma * m)
        x, m = x + dt * (c / np.sqrt(c**2 + e**2) - lam * x), m - dt * (g + gamma * m)
    return Flow(f, H)


def trajectory(optimizer: Callable, Q, b, start, steps: int, coupled: float = 0.0) -> Float[np.ndarray, "steps+1 d"]:
    """The iterates of ``optimizer([x])`` on ``x^T Q x / 2 - b^T x``, its learning rate falling linearly to 0.

    ``coupled``: weight decay of the old kind, which is added to the gradient instead.
    """
    x = torch.tensor(start, dtype=torch.float64)
    Q, b, rule, path = torch.as_tensor(Q), torch.as_tensor(b), optimizer([x]), [x.tolist()]
    lr = rule.param_groups[0]["lr"]
    for t in range(steps):
        rule.param_groups[0]["lr"] = lr * (1 - t / steps)
        x.grad = Q @ x - b + coupled * x
        rule.step()
        path.append(x.tolist())
    return np.array(path)


DIMENSION, DECAY, LR, STEPS, STARTS = 10, 1.0, 3e-2, 800, 10


@dataclass(frozen=True, eq=False)
class Experiment:
    """Iterates by method, ``(steps + 1, 10)``; the constrained optimum; the flow from 10 starts."""

    paths: dict[str, Float[np.ndarray, "steps+1 d"]]
    constrained: Float[np.ndarray, " d"]
    flow: Flow


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """A random convex quadratic in 10 dimensions whose minimum lies far outside the box ``|x_i| <= 1``."""
    for_problem, for_starts = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    A = for_problem.normal(size=(DIMENSION, DIMENSION))
    Q, b = A @ A.T / DIMENSION + 0.1 * np.eye(DIMENSION), 6 * for_problem.normal(size=DIMENSION)
    start = 8 * for_starts.normal(size=DIMENSION) / DECAY
    arms = {
        "Lion": (lambda x: Lion(x, LR, weight_decay=DECAY), 0.0),
        "coupled decay": (lambda x: Lion(x, LR), DECAY),
        "AdamW": (lambda x: torch.optim.AdamW(x, LR, weight_decay=DECAY), 0.0),
        "Euclidean Lion": (lambda x: Lion(x, LR, weight_decay=DECAY, direction=unit_direction), 0.0),
    }
    box = minimize(
        lambda x: (0.5 * x @ Q @ x - b @ x, Q @ x - b),
        np.zeros(DIMENSION),
        jac=True,
        bounds=[(-1 / DECAY, 1 / DECAY)] * DIMENSION,
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    # Inside the box of the flow, |x_i| < 2, with a momentum that points uphill.
    x = for_starts.uniform(-1, 1, size=(STARTS, DIMENSION))
    return Experiment(
        paths={name: trajectory(make, Q, b, start, STEPS, coupled) for name, (make, coupled) in arms.items()},
        constrained=box.x,
        flow=lion_flow(Q, b, x, 5 * np.sign(x @ Q - b), weight_decay=0.5),
    )


def box_distance(path: Float[np.ndarray, "steps d"], weight_decay: float) -> Float[np.ndarray, " steps"]:
    """How far each iterate is outside the box: ``max_i (|x_i| - 1 / weight_decay)_+``."""
    return np.maximum(np.abs(path).max(axis=1) - 1 / weight_decay, 0)


def steps_to_the_box(path: Float[np.ndarray, "steps d"]) -> int:
    """Steps until the distance to the box has fallen to 1 % of its start; all steps if it never does."""
    distance = box_distance(path, DECAY)
    near = np.flatnonzero(distance <= 0.01 * distance[0])
    return int(near[0]) if len(near) else len(path) - 1


def rising_starts(values: Float[np.ndarray, "steps k"]) -> int:
    """From how many starts the value rises in some step, by more than rounding."""
    return int((np.diff(values, axis=0).max(axis=0) > 1e-12).sum())


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    paths, ends = result.paths, {name: path[-1] for name, path in result.paths.items()}
    size = {name: DECAY * float(np.abs(end).max()) for name, end in ends.items()}
    error = {name: float(np.abs(end - result.constrained).max()) for name, end in ends.items()}
    never = steps_to_the_box(paths["coupled decay"])
    return (
        Claim(
            id="reaches_the_box",
            statement="Far outside, the iterates come to the box exponentially fast, whatever the gradient",
            source="Phase I of the dynamics",
            quantity="steps until 1 % of the distance to the box is left",
            unit="steps",
            measured=steps_to_the_box(paths["Lion"]),
            relation="<=",
            bound=350,
            control=Control("decay added to the gradient; stopped at 800", never, "ablation"),
            scale="log",
        ),
        Claim(
            id="stays_in_the_box",
            statement="Weight decay is a wall: no weight ends beyond 1 / lambda",
            source="implicit constraint of Lion",
            quantity="largest weight at the end, in units of 1 / lambda",
            unit="",
            measured=size["Lion"],
            relation="<=",
            bound=1.5,
            control=Control("weight decay added to the gradient", size["coupled decay"], "ablation"),
            scale="log",
        ),
        Claim(
            id="constrained_optimum",
            statement="Lion ends at the minimum of the loss on the box",
            source="Phase II; minimiser of f + kappa*(lambda x) / lambda",
            quantity="largest distance of a weight from the constrained minimum",
            unit="",
            measured=error["Lion"],
            relation="<=",
            bound=1e-2,
            control=Control("AdamW with the same lambda, learning rate and steps", error["AdamW"], "baseline"),
            scale="log",
        ),
        Claim(
            id="lyapunov",
            statement="H never rises along the flow",
            source="the Lyapunov function",
            quantity="starts, of 10, from which it rises in some step",
            unit="starts",
            measured=rising_starts(result.flow.H),
            relation="<=",
            bound=2,
            control=Control("the loss itself, on the same flow", rising_starts(result.flow.f), "baseline"),
        ),
        Claim(
            id="other_ball",
            statement="Another kappa, another ball: with the Euclidean norm the Euclidean ball",
            source="Lion-kappa",
            quantity="Euclidean norm of the weights at the end, in units of 1 / lambda",
            unit="",
            measured=DECAY * float(np.linalg.norm(ends["Euclidean Lion"])),
            relation="<=",
            bound=1.5,
            control=Control("the sign, Lion itself", DECAY * float(np.linalg.norm(ends["Lion"])), "ablation"),
            scale="log",
        ),
        Observation(
            "Largest weight at the end in units of 1 / lambda: AdamW against Lion",
            size["AdamW"],
            size["Lion"],
            "AdamW's steps are bounded as well, so its decoupled decay is nearly the same wall: nothing to claim.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def lion_step(x, m, g, lr, weight_decay):
        c = 0.9 * m + 0.1 * g
        return x - lr * (np.sign(c) + weight_decay * x), 0.99 * m + 0.01 * g

    def momentum_first(x, m, g, lr, weight_decay):
        m = 0.99 * m + 0.01 * g
        return x - lr * (np.sign(0.9 * m + 0.1 * g) + weight_decay * x), m

    def no_lr(x, m, g, lr, weight_decay):
        return lion_step(x, m, g, lr, 0)[0] - weight_decay * x, 0.99 * m + 0.01 * g

    return (
        Exercise(
            id="lion_step",
            task="Write `lion_step(x, m, g, lr, weight_decay)` for arrays of any one shape, with "
            r"$\beta_1 = 0.9$ and $\beta_2 = 0.99$. Return the new `x` and the new `m`.",
            solution=lion_step,
            cases=lambda rng: [(*rng.normal(size=(3, n)) * [[3], [0.1], [1]], 0.1, 0.5) for n in (3, 20, 50)],
            slips={
                "You updated the momentum before the step: c uses the old momentum.": momentum_first,
                "Decoupled decay is multiplied by the learning rate, too.": no_lr,
                "The decay is inside the sign: the coupled kind, a spring and no wall.": lambda x, m, g, lr, decay: (
                    lion_step(x, m, g + decay * x, lr, 0)
                ),
            },
            difficulty=1,
            minutes=10,
        ),
        Exercise(
            id="wall",
            task="In the explorer, the free minimum is at (4, 0.5). Which is the smallest weight decay with which the "
            "first weight of Lion ends at the wall and not at 4? Bind it to `wall`.",
            solution=lambda: next(decay for decay in DECAYS if valley_path(decay)[-1, 0] < 3),
            slips={
                "With 0.25 the wall is at 4, where the free minimum lies: it pushes nothing yet.": lambda: 0.25,
                "There the weight is at the wall, but a smaller decay has it there, too.": lambda: 1.0,
            },
            difficulty=2,
            minutes=5,
            kind="experiment",
            answer="The wall stands at 1 / 0.5 = 2. It is felt once 1 / lambda is below what the weight would be.",
        ),
        Exercise(
            id="halve",
            task="You halve the learning rate and keep the weight decay. What happens to the box? (a) It doubles. "
            "(b) It stays; Lion takes about twice as long to come to it. (c) It halves. Bind the letter to `halve`.",
            solution=lambda: "b",
            slips={
                "The learning rate multiplies the sign and the decay alike: their balance stays.": lambda: "a",
                "Where the two parts of a step cancel does not depend on a common factor.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="A weight stops growing where 1 = lambda |x|, which has no learning rate in it. A step outside "
            "shrinks the distance by the factor 1 - lr * lambda, so half the rate needs about twice the steps.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The distance to the box, and the error, over the steps: only Lion reaches both."""
    from paperlab.figures.curves import curves

    series = {
        name: (np.arange(STEPS + 1), np.abs(result.paths[name] - result.constrained).max(axis=1))
        for name in ("Lion", "coupled decay", "AdamW")
    }
    return curves(
        series,
        title="Lion ends at the minimum on the box",
        x_title="steps",
        y_title="largest error of a weight",
        log_y=True,
    )


# The explorer's problem: a valley whose lowest point lies at (4, 0.5).
VALLEY, LOWEST, START = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([4.0, 0.5]), np.array([-6.0, 5.0])
DECAYS, FARTHEST, VALLEY_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0), 7.0, 100


def valley_path(decay: float, beta1: float = 0.9, lr: float = 0.3, coupled: float = 0.0):
    """Lion's path in the explorer's valley, ``(101, 2)``; ``beta2`` is 0.9, since there are few steps."""
    return trajectory(lambda x: Lion(x, lr, (beta1, 0.9), decay), VALLEY, VALLEY @ LOWEST, START, VALLEY_STEPS, coupled)


def explorer() -> Explorer:
    """Two weights: Lion's path to the box and along its wall, and the path with coupled decay."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    def prepare() -> dict:
        ticks = np.linspace(-FARTHEST, FARTHEST, 61)
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1) - LOWEST
        return {"ticks": ticks, "loss": 0.5 * np.einsum("...i,ij,...j", grid, VALLEY, grid)}

    def compute(context, decay: float, beta1: float, lr: float) -> dict:
        lion, coupled = valley_path(decay, beta1, lr), valley_path(0.0, beta1, lr, coupled=decay)
        return {**context, "lion": lion, "coupled": coupled, "wall": 1 / decay}

    def draw(state) -> go.Figure:
        wall = state["wall"]
        contour = {
            "type": "contour", "x": state["ticks"], "y": state["ticks"], "z": state["loss"], "showscale": False,
            "contours": {"coloring": "lines"}, "colorscale": [[0, "#999999"], [1, "#dddddd"]], "hoverinfo": "skip",
        }  # fmt: skip
        corners = wall * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
        arms = (("Lion", "lion", theme.BLUE, "solid"), ("coupled decay", "coupled", theme.VERMILION, "dash"))
        plane = [line(name, *state[key].T, colour, dash=dash) for name, key, colour, dash in arms]
        sizes = [
            line(name, np.arange(VALLEY_STEPS + 1), np.abs(state[key]).max(axis=1), colour, dash=dash, showlegend=False)
            for name, key, colour, dash in arms
        ]
        limits = {"range": [-FARTHEST, FARTHEST]}
        box = line("box, 1 / λ", *corners.T, theme.BLACK, dash="dot")
        level = line("wall", [0, VALLEY_STEPS], [wall, wall], theme.BLACK, dash="dot", showlegend=False)
        lowest = points("free minimum", LOWEST[:1], LOWEST[1:], theme.GREEN, symbol="star", size=12)
        return panels(
            Panel("two weights, and level lines of the loss", [contour, box, *plane, lowest], "first weight",
                  "second weight", limits, limits, equal=True),
            Panel("the larger weight", [*sizes, level], "steps", "largest |weight|", {}, {"range": [0, FARTHEST]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        lion, coupled = state["lion"][-1], state["coupled"][-1]
        return (
            f"The wall stands at {state['wall']:g}. Lion ends at ({lion[0]:.2f}, {lion[1]:.2f}), coupled decay at "
            f"({coupled[0]:.2f}, {coupled[1]:.2f}); the free minimum is at (4, 0.5)."
        )

    return Explorer(
        controls=(
            Choice("decay", "weight decay λ", DECAYS, default=0.5),
            Choice("beta1", "β₁, old momentum in a step", (0.0, 0.5, 0.9, 0.99), default=0.9),
            Choice("lr", "first learning rate", (0.05, 0.1, 0.3, 0.5), default=0.3),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Double λ: Lion's box halves, and its path ends on the wall. Coupled decay ends outside.",
            "Set β₁ to 0.99: the path swings past the minimum of the box before it settles.",
            "Make the learning rate small: the box stays, the time to reach it grows.",
        ),
        name="lion_lyapunov",
    )
