r"""Which sharpness? Flatness that does not depend on scale, and whether it predicts the test error.

A minimum is called sharp when the loss rises quickly around it, and flat minima are said to generalise well. But a
network can be rescaled without changing its function, and that changes how sharp it looks. *Adaptive* sharpness
measures each weight's move in units of that weight, and is proof against this. The paper then asks whether it predicts
the test error, and finds: mostly not. In simple models one sees why. Each kind of sharpness equals a certain norm of
the solution, and which norm should be small depends on the data.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`u, v`            weights of a diagonal linear network :math:`f(x) = \sum_j u_j v_j x_j`, ``(d,)`` each
:math:`\beta`           its function: :math:`\beta_j = u_j v_j`
:math:`\Sigma_j`        mean square of input :math:`j`
:math:`\rho`            radius, or standard deviation, of the moves
======================= ========================================================================================

Average sharpness is the mean rise of the loss under Gaussian moves; worst-case sharpness the largest rise in a ball
(``paperlab.tools.sharpness``). At weights that fit all data, for the loss "half the mean squared error" and small
:math:`\rho`, the average sharpness of the diagonal network is

.. math:: \text{plain: } \tfrac{\rho^2}{2} \sum_j \Sigma_j (u_j^2 + v_j^2) \;\ge\; \rho^2 \sum_j \Sigma_j |\beta_j|,
   \qquad \text{adaptive: } \rho^2 \sum_j \Sigma_j \beta_j^2 .

Guarantee: adaptive sharpness is the same for :math:`(u, v)` and :math:`(tu, v/t)`, exactly. The formulas hold up to
:math:`O(\rho^4)`. Plain sharpness is a 1-norm of :math:`\beta` when :math:`|u| = |v|`; adaptive sharpness is a 2-norm.

Not reproduced: ImageNet, CLIP and BERT, and with them the paper's main finding, that over many trained networks
sharpness follows the learning rate more than the test error.

Reference: Andriushchenko, Croce, Mueller, Hein, Flammarion: A Modern Look at the Relationship between Sharpness and
Generalization, ICML 2023, arXiv 2302.07011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import kendalltau
from torch import Tensor

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.sharpness import average_sharpness

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def diagonal_sharpness(u, v, X, rho: float, *, adaptive: bool = False) -> np.ndarray:
    """The formula for the average sharpness of a diagonal linear network that fits its data.

    ``u``, ``v``: ``(..., d)``; ``X``: inputs ``(..., n, d)``. One number for each leading index.
    """
    Sigma = (X**2).mean(axis=-2)
    # adaptive: rho^2 sum_j Sigma_j beta_j^2;  plain: rho^2 / 2 sum_j Sigma_j (u_j^2 + v_j^2)
    terms = (u * v) ** 2 if adaptive else (u**2 + v**2) / 2
    return positive("rho", rho) ** 2 * (Sigma * terms).sum(axis=-1)


def diagonal_loss(X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]):
    """Half the mean squared error of a diagonal linear network, as a function of the vector ``(u, v)``, ``(2d,)``."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)

    def loss(weights: Tensor) -> Tensor:
        u, v = weights.chunk(2)
        return ((X @ (u * v) - y) ** 2).mean() / 2

    return loss


def normalize_logits(z: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Logits divided by their root mean square: the classifier stays, its scale is gone."""
    return z / z.square().mean().sqrt()


def logistic_loss(X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], *, normalized: bool = False):
    """The mean logistic loss of a linear classifier with labels -1 and 1, as a function of its weights ``(d,)``."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)

    def loss(w: Tensor) -> Tensor:
        z = X @ w
        return torch.nn.functional.softplus(-y * (normalize_logits(z) if normalized else z)).mean()

    return loss


def single_sample_sharpness(w, X, y, rho: float, *, adaptive: bool = False) -> float:
    """Worst-case sharpness, each sample by itself, of a linear classifier in the Euclidean ball; adaptive: the ball's
    radius is ``rho`` times the norm of the weights.

    The worst move for a sample is against its own input, so its margin falls by the radius times ``|x|``. Raises
    ``ValueError`` for bad shapes or a radius that is not positive.
    """
    w, X = finite_array("w", w, ndim=1), finite_array("X", X, ndim=2)
    radius = positive("rho", rho) * (np.linalg.norm(w) if adaptive else 1.0)
    margin = np.asarray(y) * (X @ w)
    # mean_i log(1 + exp(-(y_i w^T x_i - radius |x_i|))) - mean_i log(1 + exp(-y_i w^T x_i))
    worst = margin - radius * np.linalg.norm(X, axis=1)
    return float((np.logaddexp(0, -worst) - np.logaddexp(0, -margin)).mean())


def interpolators(X, beta_true, scales: Float[np.ndarray, " k"], lr: float = 0.02, steps: int = 6000):
    """Diagonal networks trained by gradient descent from ``u = scale * sqrt(2)``, ``v = 0``, one for each scale.

    ``X``: ``(r, n, d)`` inputs of r problems, ``beta_true``: ``(r, d)``. Returns ``u``, ``v`` ``(r, k, d)`` and the
    mean squared errors ``(r, k)``. A small scale finds sparse solutions, a large one solutions of small 2-norm.
    """
    n, d = finite_array("X", X, ndim=3).shape[1:]
    y = np.einsum("rnd,rd->rn", X, beta_true)[:, None, :]
    u = np.broadcast_to(np.sqrt(2) * scales[None, :, None], (len(X), len(scales), d)).copy()
    v = np.zeros_like(u)
    for _ in range(whole_number("steps", steps, 1)):
        # gradient in beta: X^T (X beta - y) / n; chain rule: times v for u, times u for v
        g = ((u * v) @ X.swapaxes(1, 2) - y) @ X / n
        u, v = u - lr * g * v, v - lr * g * u
    return u, v, (((u * v) @ X.swapaxes(1, 2) - y) ** 2).mean(axis=-1)


SAMPLES, INPUTS, PROBLEMS = 20, 40, 8
SCALES = np.logspace(-1.3, 0.3, 12)
# Powers of two, by which the weights of one linear classifier are multiplied.
FACTORS = 2.0 ** np.arange(-6, 5)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Average sharpness, plain and adaptive, under rescaling and by formula; over weight scales; and rank orders.

    ``rescaled``: before and after. ``formula``: adaptive, measured and by formula. ``over_scales``: raw and normalised
    logits. ``tau``: Kendall's tau of sharpness and test error over the networks of each problem, by data and kind.
    """

    rescaled: dict[str, Float[np.ndarray, " 2"]]
    formula: dict[str, Float[np.ndarray, " 2"]]
    over_scales: dict[str, Float[np.ndarray, " factors"]]
    tau: dict[str, Float[np.ndarray, " problems"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """A diagonal network rescaled, a linear classifier rescaled, and 8 sparse and 8 dense problems with 12 networks."""
    for_network, for_classifier, for_pool = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    X = for_network.normal(size=(SAMPLES, INPUTS))
    u, v = for_network.normal(size=(2, INPUTS))
    loss = diagonal_loss(X, X @ (u * v))

    def measured(weights, adaptive, n_samples=200, loss=loss):
        moves = torch.Generator().manual_seed(seed)
        return average_sharpness(loss, torch.as_tensor(weights), 1e-2, moves, adaptive=adaptive, n_samples=n_samples)

    weights, rescaled = np.concatenate([u, v]), np.concatenate([3 * u, v / 3])
    kinds = {"plain": False, "adaptive": True}
    adaptive = measured(weights, True, 1000)
    inputs = 0.2 * for_classifier.normal(size=(50, 100))
    w = for_classifier.normal(size=100)
    labels = np.sign(inputs @ w)
    classifiers = {
        name: logistic_loss(inputs, labels, normalized=name == "normalised") for name in ("raw", "normalised")
    }
    tau = {}
    for data in ("sparse", "dense"):
        pool = for_pool.normal(size=(PROBLEMS, SAMPLES, INPUTS))
        truth = for_pool.normal(size=(PROBLEMS, INPUTS)) * np.sqrt(2 / INPUTS)
        if data == "sparse":
            truth = np.where(np.arange(INPUTS) < 2, np.array([[1.0, -1.0] * (INPUTS // 2)]), 0.0).repeat(
                PROBLEMS, axis=0
            )
        U, V, errors = interpolators(pool, truth, SCALES)
        test = ((U * V - truth[:, None]) ** 2).sum(axis=-1)
        for kind, is_adaptive in kinds.items():
            sharp = diagonal_sharpness(U, V, pool[:, None], 1.0, adaptive=is_adaptive)
            fits = errors < 1e-6
            tau[f"{data}, {kind}"] = np.array(
                [kendalltau(sharp[r, fits[r]], test[r, fits[r]]).statistic for r in range(PROBLEMS)]
            )
    return Experiment(
        rescaled={kind: np.array([measured(weights, a), measured(rescaled, a)]) for kind, a in kinds.items()},
        formula={
            "adaptive": np.array([adaptive, diagonal_sharpness(u, v, X, 1e-2, adaptive=True)]),
            "wrong": np.array([adaptive, diagonal_sharpness(3 * u, v / 3, X, 1e-2)]),
        },
        over_scales={
            name: np.array([measured(factor * w, True, 20, classifier) for factor in FACTORS])
            for name, classifier in classifiers.items()
        },
        tau=tau,
    )


def factor(pair: Float[np.ndarray, " 2"]) -> float:
    """By which factor two positive numbers differ, at least 1."""
    return float(pair.max() / pair.min())


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    tau = {name: float(values.mean()) for name, values in result.tau.items()}
    return (
        Claim(
            id="rescaling",
            statement="Adaptive sharpness does not see that (u, v) was replaced by (3u, v/3): the same function",
            source="adaptive sharpness is invariant to reparametrisation",
            quantity="factor by which sharpness changes",
            unit="",
            measured=factor(result.rescaled["adaptive"]),
            relation="<=",
            bound=1.5,
            control=Control("plain sharpness of the same weights", factor(result.rescaled["plain"]), "ablation"),
            scale="log",
        ),
        Claim(
            id="formula",
            statement="Adaptive sharpness of a diagonal network is the squared 2-norm of its function",
            source="analysis of diagonal linear networks",
            quantity="factor between measured sharpness and formula",
            unit="",
            measured=factor(result.formula["adaptive"]),
            relation="<=",
            bound=1.5,
            control=Control("the plain formula, at (3u, v/3)", factor(result.formula["wrong"]), "broken"),
            scale="log",
        ),
        Claim(
            id="logit_scale",
            statement="With normalised logits, sharpness does not see a factor on the weights of a classifier",
            source="normalisation of the logits",
            quantity="largest over smallest adaptive sharpness for weights times 1/64 to 16",
            unit="",
            measured=factor(result.over_scales["normalised"]),
            relation="<=",
            bound=10,
            control=Control("raw logits: the same classifiers", factor(result.over_scales["raw"]), "ablation"),
            scale="log",
        ),
        Claim(
            id="sparse_data",
            statement="Where the truth is sparse, plain sharpness (a 1-norm) ranks networks by their test error",
            source="the right sharpness depends on the data",
            quantity="Kendall's tau of sharpness and test error, mean of 8 problems",
            unit="",
            measured=tau["sparse, plain"],
            relation=">=",
            bound=0.6,
            control=Control("adaptive sharpness of the same networks", tau["sparse, adaptive"], "baseline"),
        ),
        Observation(
            "Kendall's tau with the test error where the truth is dense, mean of 8 problems: plain, adaptive",
            tau["dense, plain"],
            tau["dense, adaptive"],
            "On dense data neither ranks the networks reliably: right on some problems, reversed on others.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def cases(rng):
        return [(*rng.normal(size=(2, d)), rng.normal(size=(n, d)), 0.1) for d, n in ((2, 3), (4, 6), (9, 5))]

    def adaptive(u, v, X, rho):
        return diagonal_sharpness(u, v, X, rho, adaptive=True)

    return (
        Exercise(
            id="adaptive",
            task="Write `adaptive(u, v, X, rho)`: the formula for the average adaptive sharpness of a diagonal linear "
            "network that fits its data. `u` and `v` are `(d,)`, `X` is `(n, d)`; return a number.",
            solution=adaptive,
            cases=cases,
            slips={
                "That is the plain formula: it changes under rescaling.": diagonal_sharpness,
                "You have sums over samples: Sigma is a mean.": lambda u, v, X, rho: len(X) * adaptive(u, v, X, rho),
                "The radius enters squared.": lambda u, v, X, rho: adaptive(u, v, X, rho) / rho,
            },
            difficulty=1,
            minutes=10,
        ),
        Exercise(
            id="peak",
            task="In the explorer, with radius 0.1 and raw logits: for which factor on the weights is the sharpness "
            "largest, among those on the control? Bind it to `peak`.",
            solution=lambda: max(EXPLORER_FACTORS, key=lambda factor: explorer_sharpness(factor, 0.1)),
            slips={
                "At the largest factor the loss is almost 0 in the whole ball.": lambda: EXPLORER_FACTORS[-1],
                "At the smallest factor the logits are almost 0, and so are their changes.": lambda: EXPLORER_FACTORS[
                    0
                ],
            },
            difficulty=2,
            minutes=5,
            kind="experiment",
            answer="Sharpness is small at both ends and largest between, while the classifier is always the same.",
        ),
        Exercise(
            id="which_norm",
            task="You know that few inputs matter for your task. Networks that fit the data equally well differ in "
            "sharpness. Which kind would you trust to pick one, in this model? (a) Plain, since it is a 1-norm when "
            "balanced. (b) Adaptive, since it is invariant. (c) Either. Bind the letter to `which_norm`.",
            solution=lambda: "a",
            slips={
                "Invariance says what it does not see, not that what it sees predicts the test error.": lambda: "b",
                "They are different norms of the same function, and rank solutions differently.": lambda: "c",
            },
            difficulty=3,
            minutes=5,
            kind="think",
            answer="Among solutions, a small 1-norm means few large entries. That fits sparse data, and only "
            "those: the right sharpness depends on the data.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Sharpness over the scale of the weights, of one and the same classifier."""
    from paperlab.figures.curves import curves

    names = {"raw": "raw logits", "normalised": "normalised logits"}
    series = {label: (FACTORS, result.over_scales[name]) for name, label in names.items()}
    return curves(
        series,
        title="One classifier, every sharpness",
        x_title="factor on the weights",
        y_title="adaptive sharpness",
        log_x=True,
        log_y=True,
    )


EXPLORER_FACTORS, RADII = tuple(2.0 ** np.arange(-5, 6)), (0.03, 0.1, 0.3)


def explorer_data():
    """Two clouds of 30 points in the plane, labels -1 and 1, and a classifier that separates them."""
    rng = np.random.default_rng(2)
    y = np.repeat([-1.0, 1.0], 30)
    return 0.6 * rng.normal(size=(60, 2)) + 2.5 * np.outer(y, [1.0, 0.5]), y, np.array([0.4, 0.25])


def explorer_sharpness(factor: float, rho: float, normalized: bool = False) -> float:
    """Adaptive worst-case sharpness, sample by sample, of the explorer's classifier times ``factor``."""
    X, y, w = explorer_data()
    w = factor * w
    w = w / np.sqrt(np.mean((X @ w) ** 2)) if normalized else w
    return single_sample_sharpness(w, X, y, rho, adaptive=True)


def explorer() -> Explorer:
    """The sharpness of one classifier as its weights grow, beside its decision boundary, which stays."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer, Toggle

    X, y, w = explorer_data()

    def compute(context, factor: float, rho: float, normalized: bool) -> dict:
        sharpness = [explorer_sharpness(each, rho, normalized) for each in EXPLORER_FACTORS]
        return {"sharpness": sharpness, "factor": factor, "now": explorer_sharpness(factor, rho, normalized)}

    def draw(state) -> go.Figure:
        along = np.array([-w[1], w[0]])[:, None] * np.linspace(-15, 15, 2)
        limits = {"range": [-5, 5]}
        curve = line("sharpness", EXPLORER_FACTORS, state["sharpness"], theme.BLUE)
        now = points("now", [state["factor"]], [state["now"]], theme.VERMILION, size=13)
        clouds = [
            points("class -1", *X[y < 0].T, theme.ORANGE, symbol="diamond"),
            points("class 1", *X[y > 0].T, theme.GREEN),
            line("boundary", *along, theme.BLACK, dash="dash"),
        ]
        logarithmic = {"type": "log", "range": [-9.5, 0]}
        return panels(
            Panel("sharpness", [curve, now], "factor on the weights", "rise of the loss", {"type": "log"}, logarithmic),
            Panel("the classifier", clouds, "first input", "second input", limits, limits, equal=True),
        )

    def describe(values, state) -> str:
        error = np.mean(np.sign(X @ (values["factor"] * w)) != y)
        return (
            f"With weights times {values['factor']:g} the sharpness is {state['now']:.2g}; the classifier is the same, "
            f"with {100 * error:.0f} % training errors. Over all factors the sharpness goes from "
            f"{min(state['sharpness']):.1e} to {max(state['sharpness']):.1e}."
        )

    return Explorer(
        controls=(
            Choice("factor", "factor on the weights", EXPLORER_FACTORS, default=1.0),
            Choice("rho", "radius ρ / norm of the weights", RADII, default=0.1),
            Toggle("normalized", "normalise the logits"),
        ),
        prepare=lambda: None,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Move the factor: the sharpness rises and falls, the boundary does not move.",
            "Normalise the logits: the curve is flat. Only then can two classifiers be compared.",
            "Raise the radius: the sharpness grows at every factor, most at the large ones.",
        ),
        name="adaptive_sharpness",
    )
