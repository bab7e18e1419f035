r"""Newton's method runs into saddles. Take the absolute values of the curvatures, and it runs away from them.

In many dimensions a point with gradient 0 and high loss is rarely a minimum: some direction leads down almost always.
What slows training are saddles and the plateaus around them. Gradient descent crawls there, since the way down is
nearly flat. Newton's method divides each component of the gradient by its curvature, and where that is negative it
steps the wrong way, into the saddle. Saddle-free Newton divides by the absolute value: same speed, right direction.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`g, H`            gradient and Hessian of the loss at the weights :math:`w`, ``(d,)`` and ``(d, d)``
:math:`\lambda_i, v_i`  eigenvalues of :math:`H` (curvatures) and unit eigenvectors, the columns of ``vectors``
:math:`\mu`             damping, added to every curvature; :math:`\eta`: rate, by which the step is multiplied
:math:`k`               dimension of the Krylov space :math:`g, Hg, \dots, H^{k-1} g`
======================= ========================================================================================

.. math:: \text{Newton: } -\sum_i \frac{v_i^T g}{\lambda_i + \mu} v_i, \qquad
   \text{saddle-free: } -\sum_i \frac{v_i^T g}{|\lambda_i| + \mu} v_i .

The second is a gradient step in a trust region that asks for :math:`\frac12 \delta^T |H| \delta \le \Delta`, where
:math:`|H|` has the eigenvalues :math:`|\lambda_i|`: no farther than the linear model can be trusted. For large
networks the sums run over the :math:`k` Ritz vectors of the Krylov space, found by the Lanczos process from products
with :math:`H`; the damping and the rate of each step are those with the lowest loss, out of a few.

Guarantee: every saddle-free step descends to first order, :math:`g^T \delta < 0`, whatever the signs of the curvatures.
Where they are all positive it is Newton's step. Near a saddle, a step without damping and with rate 1 doubles the
distance along negative directions, to first order.

Not reproduced: the deep autoencoders and the recurrent network, and the measured relation between the loss of a
critical point and its share of negative curvatures. The algorithm was written from its derivation; the paper's grids of
damping were not compared.

Reference: Pascanu, Dauphin, Ganguli, Bengio: On the saddle point problem for non-convex optimization, 2014, arXiv
1405.4604. The conference version, with further authors, is Dauphin et al., NeurIPS 2014, arXiv 1406.2572.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from paperlab import data
from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.networks import multilayer_perceptron
from paperlab.reproducible import reproducible
from paperlab.tools.hessian import dense_hessian, hessian_vector_product
from paperlab.tools.lanczos import LanczosProcess
from paperlab.tools.parameters import flat_loss, flat_parameters

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

Loss = Callable[[Float[Tensor, " d"]], Float[Tensor, ""]]
DAMPINGS, RATES = (1.0, 0.1, 1e-2, 1e-3, 1e-4), (1.0, 0.3)


def curvature(loss: Loss, w: Float[Tensor, " d"], k: int | None = None):
    """The gradient ``(d,)``, curvatures ``(m,)`` and their directions, the columns of ``(d, m)``.

    All ``d`` by default. With ``k``: the Ritz values and vectors of the Krylov space of the gradient, at most ``k``.
    Raises ``ValueError`` for a ``k`` below 1, or if the gradient is 0, which spans no Krylov space.
    """
    if k is None:
        start = w.detach().requires_grad_()
        return *torch.autograd.grad(loss(start), start), *torch.linalg.eigh(dense_hessian(loss, w))
    gradient, product = hessian_vector_product(loss, w)
    if not gradient.any():
        raise ValueError(f"w={w} is a critical point: its gradient is 0 and spans no Krylov space")
    process = LanczosProcess(product, gradient)
    while len(process.diagonal) < whole_number("k", k, 1) and not process.complete:
        process.extend()
    # T = Q^T H Q = S diag(theta) S^T: the Ritz vectors are the columns of Q S
    values, S = process.ritz_values()
    return gradient, values, process.basis.T @ S


def newton_step(gradient, values, vectors, damping: float) -> Float[Tensor, " d"]:
    """Newton's step from what ``curvature`` returns. Raises ``ValueError`` for a negative damping."""
    if not damping >= 0:
        raise ValueError(f"damping={damping} must be at least 0")
    # -sum_i v_i (v_i^T g) / (lambda_i + mu)
    return -vectors @ (vectors.T @ gradient / (values + damping))


def saddle_free_step(gradient, values, vectors, damping: float) -> Float[Tensor, " d"]:
    """The saddle-free step from what ``curvature`` returns. Raises ``ValueError`` for a negative damping."""
    # -sum_i v_i (v_i^T g) / (|lambda_i| + mu)
    return newton_step(gradient, values.abs(), vectors, damping)


@dataclass(frozen=True, eq=False)
class Path:
    """The weights of an optimization, one row a step, and their losses."""

    weights: Float[Tensor, "steps+1 d"]
    losses: Float[np.ndarray, " steps+1"]


def minimize(
    loss: Loss,
    w: Float[Tensor, " d"],
    steps: int,
    step: Callable[..., Tensor] = saddle_free_step,
    *,
    k: int | None = None,
    dampings: Sequence[float] = DAMPINGS,
    rates: Sequence[float] = RATES,
) -> Path:
    """Second-order descent: in each step the damping and the rate with the lowest loss, out of those given.

    With one damping and one rate there is nothing to choose, and the loss may rise. Raises ``ValueError`` for weights
    that are not finite, counts or rates that are not positive, and in a Krylov space at a critical point.
    """
    finite_array("w", w, ndim=1)
    eta = torch.tensor([positive("rates", rate) for rate in rates])
    path, losses = [w], [float(loss(w))]
    for _ in range(whole_number("steps", steps, 1)):
        model = curvature(loss, path[-1], k)
        # w <- w + eta delta(mu), with the best eta and mu
        tried = [path[-1] + rate * step(*model, damping) for damping in dampings for rate in eta]
        with torch.no_grad():
            found = [float(loss(each)) for each in tried]
        best = int(np.argmin(found))
        path.append(tried[best])
        losses.append(found[best])
    return Path(torch.stack(path), np.array(losses))


def gradient_descent(loss: Loss, w: Float[Tensor, " d"], steps: int, rate: float) -> Path:
    """Gradient descent. Raises ``ValueError`` for a rate or number of steps that is not positive."""
    positive("rate", rate)
    path, losses = [w], []
    for _ in range(whole_number("steps", steps, 1)):
        w = w.detach().requires_grad_()
        value = loss(w)
        (gradient,) = torch.autograd.grad(value, w)
        # w <- w - eta g
        w = (w - rate * gradient).detach()
        path.append(w)
        losses.append(value.item())
    return Path(torch.stack(path), np.array([*losses, loss(w).item()]))


def index(loss: Loss, w: Float[Tensor, " d"], tol: float = 1e-6) -> float:
    """The share of negative curvatures, those below ``-tol`` times the largest: 0 at a minimum, 1 at a maximum."""
    values = torch.linalg.eigvalsh(dense_hessian(loss, w))
    return float((values < -tol * values.abs().max()).double().mean())


def plateau(curvatures: Float[np.ndarray, " d"], rng: np.random.Generator) -> tuple[Loss, float]:
    """A saddle at 0 with these curvatures along random orthogonal directions, and the value of its minima.

    Along direction i it is ``lambda_i z^2 / 2``, plus ``|lambda_i| z^4 / 4`` where the curvature is negative: then
    there are minima at ``z = -1`` and ``z = 1``.
    """
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(len(curvatures),) * 2))[0])
    values = torch.tensor(curvatures)

    def loss(w):
        z = turn.T @ w
        return (values * z**2 / 2 + values.clamp_max(0).abs() * z**4 / 4).sum()

    return loss, float(values.clamp_max(0).sum()) / 4


def digits_network(rng: np.random.Generator, n: int = 200, hidden: int = 5) -> tuple[Loss, Float[Tensor, " d"]]:
    """The loss of a small network on images of digits, shrunk to 4 x 4 pixels, and weights near the saddle at 0."""
    digits = data.digits()
    rows = rng.permutation(len(digits.targets))[:n]
    images = digits.features[rows].reshape(n, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(n, 16)
    model = multilayer_perceptron((16, hidden, 10), seed=0, activation="tanh").double()
    loss = flat_loss(
        model, cross_entropy, torch.tensor(images - images.mean(axis=0)), torch.tensor(digits.targets[rows])
    )
    return loss, torch.tensor(0.01 * rng.normal(size=len(flat_parameters(model))))


# 13 directions up, 7 down; the flattest and the steepest differ by a factor of 500
CURVATURES = np.geomspace(0.02, 10, 20) * np.where(np.arange(20) % 3 == 1, -1, 1)
KRYLOV, STEPS, DESCENT_STEPS, DESCENT_RATES = 12, 20, 60, (1.0, 3.0, 10.0)
# Of one step in the Krylov space, in gradients: a product counts 2, a loss 1/2
COST = 1 + 2 * KRYLOV + len(DAMPINGS) * len(RATES) // 2


def steps_to(path: Path, lowest: float, share: float = 1e-6) -> int:
    """Steps until the loss is within ``share`` of the depth of the minima; one more than all if never."""
    close = np.append(path.losses - lowest <= share * abs(lowest), True)
    return int(close.argmax())


@dataclass(frozen=True, eq=False)
class Experiment:
    """A plateau in 20 dimensions and a small network on digits, each left by three methods.

    ``steps`` to the minima of the plateau, by method; ``negative``: the share of negative curvatures at the end there.
    ``losses`` of the network after each step, by method; "gradient descent" has the best rate, and goes on to the cost
    of saddle-free Newton. "Newton" has one damping, near 0, and rate 1; "Newton, damped" has in each step the same
    choice as saddle-free Newton.
    """

    steps: dict[str, int]
    negative: dict[str, float]
    losses: dict[str, Float[np.ndarray, " steps"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """A saddle with 13 directions up and 7 down, and a network of 145 weights on 200 digits."""
    for_plateau, for_digits = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    loss, lowest = plateau(CURVATURES, for_plateau)
    w = torch.tensor(1e-3 * for_plateau.normal(size=len(CURVATURES)))
    paths = {
        "saddle-free Newton": minimize(loss, w, 30),
        "Newton": minimize(loss, w, 8, newton_step, dampings=(1e-6,), rates=(1.0,)),
        "Newton, damped": minimize(loss, w, 80, newton_step),
        # The steepest curvature, 20 at the minima, allows rates up to 0.1
        "gradient descent": gradient_descent(loss, w, 400, 0.09),
    }
    steps = {name: steps_to(path, lowest) for name, path in paths.items()}
    negative = {name: index(loss, path.weights[-1]) for name, path in paths.items()}
    loss, w = digits_network(for_digits)
    best = min(DESCENT_RATES, key=lambda rate: gradient_descent(loss, w, DESCENT_STEPS, rate).losses[-1])
    losses = {
        "saddle-free Newton": minimize(loss, w, STEPS, k=KRYLOV).losses,
        "Newton": minimize(loss, w, 4, newton_step, dampings=(1e-3,), rates=(1.0,)).losses,
        "Newton, damped": minimize(loss, w, STEPS, newton_step, k=KRYLOV).losses,
        "gradient descent": gradient_descent(loss, w, STEPS * COST, best).losses,
    }
    return Experiment(steps, negative, losses)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    losses = {name: float(values[-1]) for name, values in result.losses.items()}
    losses["at step 60"] = float(result.losses["gradient descent"][DESCENT_STEPS])
    return (
        Claim(
            id="plateau",
            statement="Saddle-free Newton leaves a plateau in few steps",
            source="plateaus slow gradient descent",
            quantity="steps to within 1e-6 of the minima's depth, 20 dimensions, at most 401",
            unit="steps",
            measured=float(result.steps["saddle-free Newton"]),
            relation="<=",
            bound=80,
            control=Control("gradient descent, near its largest rate", result.steps["gradient descent"], "baseline"),
            scale="log",
        ),
        Claim(
            id="repelled",
            statement="Newton's method is drawn into the saddle; the absolute values make it a repeller",
            source="Newton's method near saddles",
            quantity="share of negative curvatures at the end, 20 dimensions",
            unit="%",
            measured=100 * result.negative["saddle-free Newton"],
            relation="<=",
            bound=18,
            control=Control("Newton: signs kept", 100 * result.negative["Newton"], "ablation"),
        ),
        Claim(
            id="signs",
            statement="It is the absolute values that do it, not the choice of damping and rate in each step",
            source="Newton's method near saddles; here with damping",
            quantity="steps to within 1e-6 of the minima's depth, 20 dimensions, at most 81",
            unit="steps",
            measured=float(result.steps["saddle-free Newton"]),
            relation="<=",
            bound=40,
            control=Control("Newton with the same choice in each step", result.steps["Newton, damped"], "ablation"),
            scale="log",
        ),
        Claim(
            id="digits_descent",
            statement="In a network on digits it needs far fewer steps than gradient descent",
            source="experiments on small networks",
            quantity="training loss after 20 steps in Krylov spaces of dimension 12",
            unit="",
            measured=losses["saddle-free Newton"],
            relation="<=",
            bound=0.15,
            control=Control("60 steps of gradient descent, the best of 3 rates", losses["at step 60"], "baseline"),
            scale="log",
        ),
        Observation(
            f"Training loss for the cost of {STEPS * COST} gradients: saddle-free Newton, gradient descent",
            losses["saddle-free Newton"],
            losses["gradient descent"],
            "A step of saddle-free Newton costs as much as 30 gradients. Counted so, the lead is smaller.",
        ),
        Observation(
            "Training loss on the digits after 20 steps: saddle-free Newton, Newton with the same choice of damping",
            losses["saddle-free Newton"],
            losses["Newton, damped"],
            "A damping above the size of the negative curvatures turns Newton around, too. Here that suffices.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def saddle_free(g, H, mu):
        values, vectors = torch.linalg.eigh(torch.tensor(H))
        return saddle_free_step(torch.tensor(g), values, vectors, mu).numpy()

    def newton(g, H, mu):
        return -np.linalg.solve(H + mu * np.eye(len(g)), g)

    def ends(mu):
        return explorer_path("saddle-free Newton", "flat saddle", 0.01, 1.0, mu)[1][-1]

    def cases(rng):
        factors = [rng.normal(size=(d, d)) for d in (2, 3, 5)]
        return [(rng.normal(size=len(A)), (A + A.T) / 2, 0.1) for A in factors]

    return (
        Exercise(
            id="saddle_free",
            task="Write `saddle_free(g, H, mu)`: the saddle-free Newton step for the gradient `g`, `(d,)`, the "
            "symmetric Hessian `H`, `(d, d)`, and the damping `mu`. NumPy arrays; return `(d,)`.",
            solution=saddle_free,
            cases=cases,
            slips={
                "That is Newton's step: the curvatures keep their signs.": newton,
                "Take absolute values of eigenvalues, not of entries.": lambda g, H, mu: newton(g, np.abs(H), mu),
                "The step goes against the gradient.": lambda g, H, mu: -saddle_free(g, H, mu),
            },
            difficulty=2,
            minutes=15,
        ),
        Exercise(
            id="damping",
            task="In the explorer, on the flat saddle with rate 1 and start 0.01: which is the largest damping on the "
            "control with which saddle-free Newton ends less than 0.001 above the minimum? Bind it to `damping`.",
            solution=lambda: max(mu for mu in EXPLORER_DAMPINGS if ends(mu) < 1e-3),
            slips={
                "With damping 1 every curvature counts as 1 or more, and the way out is slow.": lambda: 1.0,
                "It does so, but there is a larger one.": lambda: EXPLORER_DAMPINGS[0],
            },
            difficulty=1,
            minutes=5,
            kind="experiment",
            answer="The damping must stay below the flattest curvature, here 0.05 downwards: what is added to it slows "
            "the way out.",
        ),
        Exercise(
            id="distance",
            task="At a saddle one curvature is -2. You stand at distance z from the saddle, in exactly this direction. "
            "The loss is quadratic, damping 0, rate 1. How far from the saddle are you after one saddle-free step? "
            "(a) 0. (b) 2z. (c) 3z. Bind the letter to `distance`.",
            solution=lambda: "b",
            slips={
                "That is Newton's step: it solves for gradient 0, and that is the saddle.": lambda: "a",
                "That is a step of gradient descent with rate 1: z + 2z.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="The gradient is -2z. Divided by |-2| and subtracted, it gives z + z = 2z, as for any curvature "
            "below 0.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The loss of the network over the steps, by method."""
    from paperlab.figures.curves import curves

    series = {name: (np.arange(len(values)), values) for name, values in result.losses.items()}
    series["gradient descent"] = tuple(part[: DESCENT_STEPS + 1] for part in series["gradient descent"])
    # Newton has converged: its loss stays what it is
    series["Newton"] = [0, DESCENT_STEPS], result.losses["Newton"][[0, -1]]
    title = "A network on digits: Newton stays on the plateau, unless it is damped"
    drawn = curves(series, title=title, x_title="steps", y_title="training loss", log_y=True)
    return drawn.update_yaxes(tickvals=[0.01, 0.03, 0.1, 0.3, 1, 3], exponentformat="none")


def double_well(c: float):
    """The function of ``(x, y)`` to the loss ``x^2 / 2 + c (y^4 / 4 - y^2 / 2)``, its gradient and its Hessian."""
    return lambda x, y: (
        0.5 * x * x + c * y * y * (0.25 * y * y - 0.5),
        (x, c * y * (y * y - 1)),
        ((1.0, 0.0), (0.0, c * (3 * y * y - 1))),
    )


def monkey_saddle(x, y):
    """The loss ``x^3 / 3 - x y^2 + (x^2 + y^2)^2 / 4``, its gradient and its Hessian: three ways down from 0."""
    r, mixed = x * x + y * y, 2 * x * y - 2 * y
    H = (2 * x + 3 * x * x + y * y, mixed), (mixed, x * x + 3 * y * y - 2 * x)
    return x * (x * x / 3 - y * y) + r * r / 4, (x * x - y * y + r * x, r * y - 2 * x * y), H


SURFACES = {"saddle": double_well(1.0), "flat saddle": double_well(0.05), "monkey saddle": monkey_saddle}
LOWEST = {"saddle": -1 / 4, "flat saddle": -1 / 80, "monkey saddle": -1 / 12}
METHODS = {"saddle-free Newton": saddle_free_step, "Newton": newton_step, "gradient descent": lambda g, *_: -g}
EXPLORER_STEPS, EXPLORER_DAMPINGS = 14, (1e-4, 1e-3, 0.01, 0.1, 1.0)


def explorer_path(method: str, surface: str, start: float, rate: float, damping: float):
    """14 steps from (1, start): the weights ``(15, 2)``, and how far the losses are above the minimum."""
    path = [torch.tensor([1.0, start], dtype=torch.float64)]
    for _ in range(EXPLORER_STEPS):
        g, H = (torch.tensor(part, dtype=torch.float64) for part in SURFACES[surface](*path[-1].tolist())[1:])
        path.append(path[-1] + rate * METHODS[method](g, *torch.linalg.eigh(H), damping))
    weights = torch.stack(path).numpy()
    return weights, SURFACES[surface](*weights.T)[0] - LOWEST[surface]


def explorer() -> Explorer:
    """Three methods leave a saddle in the plane, or do not: their paths, and their losses."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, contours, line, panels, points
    from paperlab.widgets import Choice, Explorer

    ticks = np.linspace(-1.6, 1.6, 41)

    def compute(context, surface: str, start: float, rate: float, damping: float) -> dict:
        height = np.log10(SURFACES[surface](*np.meshgrid(ticks, ticks))[0] - LOWEST[surface] + 1e-3)
        paths = {name: explorer_path(name, surface, start, rate, damping) for name in METHODS}
        return {"height": height, "paths": paths}

    def draw(state) -> go.Figure:
        plane, losses = [contours(state["height"], x=ticks, y=ticks, opacity=0.4)], []
        for place, (name, (weights, gaps)) in enumerate(state["paths"].items()):
            look = {"colour": theme.COLOURS[place], "dash": ("solid", "dash", "dot")[place]}
            plane.append(line(name, *weights.T, **look, mode="lines+markers"))
            losses.append(line(name, np.arange(len(gaps)), np.maximum(gaps, 1e-12), **look, showlegend=False))
        plane.append(points("start", *weights[:1].T, theme.BLACK, symbol="x", size=11))
        limits, heights = {"range": [-1.6, 1.6]}, {"type": "log", "range": [-12.5, 0.5], "dtick": 3}
        return panels(
            Panel("paths", plane, "first weight", "second weight", limits, limits, equal=True),
            Panel("loss above the minimum", losses, "steps", "loss - lowest loss", {}, heights),
        )

    def describe(values, state) -> str:
        ends = "; ".join(
            f"{name} ends at ({weights[-1][0]:.2f}, {weights[-1][1]:.2f}), {max(gaps[-1], 1e-12):.1e} above the minimum"
            for name, (weights, gaps) in state["paths"].items()
        )
        return f"After {EXPLORER_STEPS} steps: {ends}."

    return Explorer(
        controls=(
            Choice("surface", "surface", tuple(SURFACES), default="flat saddle"),
            Choice("start", "second weight at the start", (0.001, 0.01, 0.1, 0.5), default=0.01),
            Choice("rate", "rate of all methods", (0.1, 0.3, 1.0), default=1.0),
            Choice("damping", "damping of both Newtons", EXPLORER_DAMPINGS, default=1e-3),
        ),
        prepare=lambda: None,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Start closer to 0: gradient descent and saddle-free Newton need more steps. Newton does not notice.",
            "Take the steeper saddle: gradient descent gets out, too. It is flatness that slows it.",
            "Raise the damping to 1: on the flat saddle, saddle-free Newton leaves no faster than gradient descent.",
        ),
        name="saddle_free_newton",
    )
