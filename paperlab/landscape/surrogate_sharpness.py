r"""A model to be climbed should not swing: penalise how far its predictions move when its weights move.

In offline optimisation a *surrogate* is fitted to designs that were tried before, and then one looks for the design
that it likes best. That is off the data, where predictions depend on accidents of the training. IGNITE makes them less
accidental: it penalises by how much the mean prediction can change when the weights move by a small distance. To first
order that is the norm of a gradient, and the gradient of that norm takes one gradient more.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`\beta`           weights of the surrogate :math:`g_\beta`: ``w``, ``(d,)``, or a stack ``(k, d)`` that is trained
                        at once
:math:`G, h`            mean prediction :math:`\frac1n \sum_i g_\beta(x_i)`, and its gradient by the weights
:math:`\rho`            radius of the perturbation of the weights
:math:`r`               step of the finite difference
:math:`\lambda`         weight of the penalty; with a constraint its multiplier
:math:`\varepsilon`     largest sharpness allowed
======================= ========================================================================================

*Surrogate sharpness* is :math:`\max_{\lVert \delta \rVert \le \rho} |G(\beta + \delta) - G(\beta)| \approx
\rho \lVert h \rVert`. Training minimises :math:`L + \lambda \rho \lVert h \rVert` on each batch, with

.. math:: \nabla \lVert h(\beta) \rVert = \nabla^2 G \frac{h}{\lVert h \rVert}
   \approx \frac{1}{r} \Big( h\big(\beta + r \tfrac{h}{\lVert h \rVert}\big) - h(\beta) \Big), \qquad
   \lambda \leftarrow \max\big(0, \lambda + \eta (\rho \lVert h \rVert - \varepsilon)\big),

the latter only if the sharpness is constrained (IGNITE); with :math:`\lambda` fixed the paper calls it IGNITE2.

Guarantee: the error of the finite difference is of first order in :math:`r`, for surrogates with three continuous
derivatives. The paper's theorem bounds the sharpness on unseen designs by that on the data.

Not reproduced: Design-Bench, where the paper reports up to 9.6 % better designs. Ours are not better. Our
:math:`\lambda` and :math:`\eta` are 20 times those of the official code, for trainings of 600 steps.

Reference: Dao, Le Nguyen, Truong and Hoang, 2025, arXiv 2503.04242: Incorporating Surrogate Gradient Norm to Improve
Offline Optimization Techniques.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.perturbation import sam_perturbation
from paperlab.tools.stacked_networks import random_weights, split_layers

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

Widths = tuple[int, ...]


def forward(w: Float[np.ndarray, "... d"], X: Float[np.ndarray, "... n p"], widths: Widths) -> list[np.ndarray]:
    """Inputs, hidden values and predictions ``(..., n, 1)`` of tanh networks; leading axes are broadcast."""
    values = [X]
    for A, b in split_layers(w, widths):
        z = values[-1] @ A.swapaxes(-1, -2) + b
        values.append(np.tanh(z) if len(values) < len(widths) - 1 else z)
    return values


def predict(w: Float[np.ndarray, "... d"], X: Float[np.ndarray, "... n p"], widths: Widths):
    """The predictions of the networks, ``(..., n)``."""
    return forward(w, X, widths)[-1][..., 0]


def backward(w, values: list[np.ndarray], c: Float[np.ndarray, "... n"], widths: Widths):
    """The gradients of ``sum_i c_i g(x_i)`` by the weights ``(..., d)`` and by the inputs ``(..., n, p)``."""
    slope, parts = c[..., None], []
    for A, value in zip([A for A, _ in split_layers(w, widths)][::-1], values[-2::-1], strict=True):
        by_A = slope.swapaxes(-1, -2) @ value
        parts = [by_A.reshape(*by_A.shape[:-2], -1), slope.sum(axis=-2), *parts]
        slope = slope @ A
        if value is not values[0]:
            slope = slope * (1 - value**2)
    return np.concatenate(parts, axis=-1), slope


def loss_slopes(values: list[np.ndarray], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... n"]:
    """The derivatives of the mean squared error by the predictions at the end of ``values``."""
    return 2 * (values[-1][..., 0] - y) / y.shape[-1]


def mean_gradient(w: Float[np.ndarray, "... d"], X: Float[np.ndarray, "... n p"], widths: Widths):
    """``h``: the gradient of the mean prediction by the weights."""
    values = forward(w, X, widths)
    return backward(w, values, np.full_like(values[-1][..., 0], 1 / X.shape[-2]), widths)[0]


def gradient_norm(w: Float[np.ndarray, "... d"], X: Float[np.ndarray, "... n p"], widths: Widths):
    """``|h|``, ``(...,)``: surrogate sharpness over the radius, to first order."""
    return np.linalg.norm(mean_gradient(w, X, widths), axis=-1)


def norm_gradient(gradient_at: Callable, w: Float[np.ndarray, "... d"], r: float, h=None):
    """The gradient of the norm of a gradient, by a finite difference of step ``r``: one gradient beyond ``h``.

    ``gradient_at(w)``: the gradient of any function of the weights. ``h``: its value at ``w``, if it is known. 0 where
    ``h`` is 0. The error falls with ``r`` if the function has three bounded derivatives. Raises ``ValueError`` unless
    ``r > 0``.
    """
    h = gradient_at(w) if h is None else h
    length = np.maximum(np.linalg.norm(h, axis=-1, keepdims=True), np.finfo(float).tiny)
    # (h(w + r h / |h|) - h(w)) / r
    return (gradient_at(w + positive("r", r) * h / length) - h) / r


class Fit(NamedTuple):
    """Weights at the end; the multiplier and the sharpness ``rho |h|`` of the last batch, after each epoch."""

    w: Float[np.ndarray, "k d"]
    lam: Float[np.ndarray, "epochs k"]
    sharpness: Float[np.ndarray, "epochs k"]


def fit_surrogate(
    X, y, w, widths: Widths, rng, *, lam=0.0, eta=0.0, epsilon=0.5, rho=0.2, r=0.2, sam=0.0, epochs=150, lr=5e-3
) -> Fit:
    """Fit ``k`` surrogates at once to designs ``X`` ``(k, n, p)`` and values ``y`` ``(k, n)``: Adam, batches of 50.

    ``lam``, ``eta``: numbers, or one a network; with ``lam=0, eta=0`` plain training, with ``eta=0`` a fixed penalty,
    otherwise ``lam`` is where the multiplier starts. ``sam``: above 0, sharpness-aware minimisation of this radius
    instead. The loss is the mean squared error. Raises ``ValueError`` for bad data, shapes or numbers.
    """
    X, y, w = finite_array("X", X, ndim=3), finite_array("y", y, ndim=2), finite_array("w", w, ndim=2)
    if y.shape != X.shape[:2] or len(w) != len(X):
        raise ValueError(f"X has shape {X.shape}; y {y.shape} and w {w.shape} do not fit")
    lam, eta = np.broadcast_to(lam, len(w)), np.broadcast_to(eta, len(w))
    if not (lam >= 0).all() or not (eta >= 0).all() or sam < 0:
        raise ValueError(f"lam={lam}, eta={eta} and sam={sam} must not be negative")
    rho, epsilon, lr = positive("rho", rho), positive("epsilon", epsilon), positive("lr", lr)
    m, v, t, n, history = np.zeros_like(w), np.zeros_like(w), 0, X.shape[1], []
    for _ in range(whole_number("epochs", epochs, 1)):
        for rows in np.split(rng.permutation(n), range(50, n, 50)):
            x, target = X[:, rows], y[:, rows]
            values = forward(w, x, widths)
            c = loss_slopes(values, target)
            # Gradients of the loss and of the mean prediction from one forward pass
            g, h = backward(w, values, np.stack([c, np.full_like(c, 1 / len(rows))]), widths)[0]
            sharpness = rho * np.linalg.norm(h, axis=1)
            if sam:
                moved = w + np.stack([sam_perturbation(each, sam) for each in g])
                values = forward(moved, x, widths)
                g = backward(moved, values, loss_slopes(values, target), widths)[0]
            elif lam.any():
                # grad L + lam rho grad |h|
                g = g + rho * lam[:, None] * norm_gradient(lambda w, x=x: mean_gradient(w, x, widths), w, r, h)
            # lam <- max(0, lam + eta (rho |h| - epsilon))
            lam = np.maximum(0, lam + eta * (sharpness - epsilon))
            # Adam
            t, m, v = t + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        history.append((lam, sharpness))
    return Fit(w, *np.swapaxes(history, 0, 1))


def climb(w: Float[np.ndarray, "k d"], X: Float[np.ndarray, "k n p"], widths: Widths, steps=100, lr=0.02):
    """Improve designs by gradient ascent on the prediction, within the box from -1 to 1."""
    for _ in range(steps):
        values = forward(w, X, widths)
        X = np.clip(X + lr * backward(w, values, np.ones_like(values[-1][..., 0]), widths)[1], -1, 1)
    return X


WIDTHS, PROBLEMS, LAM, RHO, EPSILON, SAM_RADIUS = (6, 24, 24, 1), 3, 0.2, 0.2, 0.5, 0.02
ARMS = ("plain training", "IGNITE2: fixed weight", "IGNITE: constraint", "SAM on the loss")


def true_value(X: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, ...]:
    """The function that is to be maximised, and that the surrogate does not know: a hill with bumps."""
    return (0.3 * np.cos(4 * X) - (X - 0.6) ** 2).sum(axis=-1)


def offline_data(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The worst 200 of 600 random designs in the box from -1 to 1, sorted, ``(200, 6)``; their values in standard
    deviations from the mean ``(200,)``; that mean and standard deviation ``(1,)``; 500 other designs of the whole box.
    """  # fmt: skip
    X = rng.uniform(-1, 1, (600, 6))
    X = X[np.argsort(true_value(X))[:200]]
    values = true_value(X)
    mean, std = values.mean(keepdims=True), values.std(keepdims=True)
    return X, (values - mean) / std, mean, std, rng.uniform(-1, 1, (500, 6))


@dataclass(frozen=True, eq=False)
class Experiment:
    """Three offline problems, each fitted in four ways: the ``ARMS``.

    ``errors``: mean squared errors on the data, in units of the variance of the values. ``norms``: of the gradient of
    the mean prediction, on the data and on 500 designs of the whole box. ``designs``: true value after climbing from
    the 20 best designs, median, in standard deviations above the data's mean. ``differences``: see
    ``difference_errors``. ``history``: multiplier and ``rho |h|`` of IGNITE, after each epoch.
    """

    errors: Float[np.ndarray, "arms k"]
    norms: Float[np.ndarray, "2 arms k"]
    designs: Float[np.ndarray, "arms k"]
    differences: Float[np.ndarray, "2 k"]
    history: Float[np.ndarray, "2 epochs k"]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Twelve surrogates with two hidden layers of 24, fitted to 200 designs in 150 epochs."""
    for_data, for_start, *for_fits = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(4))
    problems = zip(*(offline_data(for_data) for _ in range(PROBLEMS)), strict=True)
    (X, y, mean, std, box), w = map(np.array, problems), random_weights(WIDTHS, PROBLEMS, for_start)
    lam, eta = np.repeat([[0, LAM, 1e-3], [0, 0, 0.02]], PROBLEMS, axis=1)
    tiled = np.tile(X, (3, 1, 1)), np.tile(y, (3, 1)), np.tile(w, (3, 1))
    fit = fit_surrogate(*tiled, WIDTHS, for_fits[0], lam=lam, eta=eta, epsilon=EPSILON, rho=RHO)
    sam = fit_surrogate(X, y, w, WIDTHS, for_fits[1], sam=SAM_RADIUS)
    ends = np.concatenate([fit.w, sam.w]).reshape(4, PROBLEMS, -1)
    return Experiment(
        errors=((predict(ends, X, WIDTHS) - y) ** 2).mean(axis=-1),
        norms=np.array([gradient_norm(ends, where, WIDTHS) for where in (X, box)]),
        designs=np.median((true_value(climb(ends, X[:, -20:], WIDTHS)) - mean) / std, axis=-1),
        differences=difference_errors(ends[0], X, y),
        history=np.array([fit.lam[:, -PROBLEMS:], fit.sharpness[:, -PROBLEMS:]]),
    )


def difference_errors(w: Float[np.ndarray, "k d"], X, y, r: float = 1e-3) -> Float[np.ndarray, "2 k"]:
    """Relative errors of the finite difference of step ``r`` against a central difference of step 1e-5: with the step
    along ``h``, and along the gradient of the loss.
    """  # fmt: skip
    values, at = forward(w, X, WIDTHS), lambda w: mean_gradient(w, X, WIDTHS)
    g, h = backward(w, values, loss_slopes(values, y), WIDTHS)[0], at(w)
    g, u = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (g, h))
    exact = (at(w + 1e-5 * u) - at(w - 1e-5 * u)) / 2e-5
    found = np.array([norm_gradient(at, w, r), (at(w + r * g) - h) / r])
    return np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    on, off = result.norms.mean(axis=2)
    errors, designs = result.errors.mean(axis=1), result.designs.mean(axis=1)
    common = {"unit": "", "relation": "<="}
    return (
        Claim(
            id="exact",
            statement="One more gradient gives the gradient of the penalty",
            source="section 3: approximation of the gradient norm's gradient",
            quantity="relative error with a step of 0.001, mean of three surrogates",
            measured=float(result.differences[0].mean()),
            **common,
            bound=0.03,
            control=Control("step along the gradient of the loss", float(result.differences[1].mean()), "broken"),
            scale="log",
        ),
        Claim(
            id="off",
            statement="With the penalty, predictions off the data are less sensitive to the weights as well",
            source="theorem: sharpness on unseen designs is bounded by that on the data",
            quantity="norm of the gradient of the mean prediction on 500 designs of the whole box, mean of three",
            measured=float(off[1]),
            **common,
            bound=3.7,
            control=Control("plain training", float(off[0]), "baseline"),
        ),
        Claim(
            id="loss",
            statement="It is the prediction that must be penalised: flatness of the loss does less at the same fit",
            source="surrogate sharpness against loss sharpness",
            quantity="norm of the gradient of the mean prediction on the data, mean of three surrogates",
            measured=float(on[1]),
            **common,
            bound=3.5,
            control=Control(f"SAM of radius {SAM_RADIUS}", float(on[3]), "baseline"),
        ),
        Claim(
            id="constraint",
            statement="The multiplier brings the sharpness to about what is allowed",
            source="IGNITE: dual ascent",
            quantity=f"radius times norm, {EPSILON} allowed",
            measured=RHO * float(on[2]),
            **common,
            bound=0.75,
            control=Control("plain training: multiplier kept at 0", RHO * float(on[0]), "ablation"),
        ),
        Observation(
            "Mean squared error on the data: IGNITE2, SAM",
            float(errors[1]),
            float(errors[3]),
            f"The radius of SAM was chosen so that both fit equally well. Plain training fits better: {errors[0]:.3f}.",
        ),
        Observation(
            "True value of the designs found, in standard deviations of the data, median: IGNITE2, plain training",
            float(designs[1]),
            float(designs[0]),
            "The paper reports better designs. Ours are as good within what seeds differ: no claim.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def penalty(A, b, w, r):
        return norm_gradient(lambda w: A @ w + b, w, r)

    def cases(rng):
        draws = [(rng.normal(size=(d, d)), *rng.normal(size=(2, d)), r) for d, r in ((1, 0.5), (2, 0.1), (5, 0.01))]
        return [(A + A.T, b, w, r) for A, b, w, r in draws]

    def moves(lam):
        return explorer().compute(explorer_fits(), lam, 0.2)["width"][-1]

    return (
        Exercise(
            id="penalty",
            task="Let the mean prediction be $\\frac12 w^\\top A w + b^\\top w$, $A$ symmetric. Write "
            "`penalty(A, b, w, r)`: the gradient of the norm of its gradient, by a finite difference of step `r`.",
            solution=penalty,
            cases=cases,
            slips={
                "Divide the gradient by its norm: the step has length r.": lambda A, b, w, r: A @ (A @ w + b),
                "Divide the difference by r.": lambda A, b, w, r: r * penalty(A, b, w, r),
                "Subtract the gradient at w.": lambda A, b, w, r: penalty(A, b, w, r) + (A @ w + b) / r,
            },
            difficulty=2,
        ),
        Exercise(
            id="steady",
            task="In the explorer, at a move of 0.2: with which smallest weight of the penalty can the prediction at "
            "the end of the climb change by at most 0.85? Bind the number to `steady`.",
            solution=lambda: next(lam for lam in EXPLORER_LAMS if moves(lam) <= 0.85),
            slips={
                "With that one it can still change by 0.90.": lambda: 0.1,
                "A smaller one is enough.": lambda: EXPLORER_LAMS[-1],
            },
            minutes=5,
            kind="experiment",
            answer="The band becomes narrower with the weight of the penalty, and the fit becomes worse.",
        ),
        Exercise(
            id="floor",
            task="A network has a bias at its output; the radius is 0.2. Which $\\varepsilon$ can no weights satisfy? "
            "(a) All below 1. (b) All below 0.2. (c) Each can be satisfied. Bind the letter to `floor`.",
            solution=lambda: "b",
            slips={
                "The norm is at least 1. What is that times the radius?": lambda: "a",
                "By how much does the mean prediction change with the bias?": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="The derivative by the output bias is 1, whatever the other weights: the norm of h is at least 1.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Sharpness against the fit, on and off the data, and the multiplier at work."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    looks = (theme.VERMILION, "x"), (theme.BLUE, "circle"), (theme.SKY, "diamond"), (theme.GREEN, "square")
    trade = [
        [points(name, result.errors[i], norms[i], colour, symbol=symbol, size=11, showlegend=row == 0)
         for i, (name, (colour, symbol)) in enumerate(zip(ARMS, looks, strict=True))]
        for row, norms in enumerate(result.norms)
    ]  # fmt: skip
    epochs, (lam, sharpness) = np.arange(1, 151), result.history.mean(axis=2)
    dual = [
        line("multiplier λ", epochs, lam, theme.PURPLE, dash="dash"),
        line("sharpness ρ|h|", epochs, sharpness, theme.BLACK),
        line("allowed ε", [0, 150], [EPSILON, EPSILON], theme.GREY, dash="dot"),
    ]
    axes = "mean squared error", "norm |h|", {"range": [0, 0.2]}, {"range": [0, 8]}
    return panels(
        Panel("on the data", trade[0], *axes),
        Panel("whole box", trade[1], *axes),
        Panel("IGNITE's constraint", dual, "epoch", "λ, ρ|h|", {"range": [0, 150]}, {"range": [0, 1]}),
        title="Sharpness of the prediction",
    )


EXPLORER_LAMS = (0.0, 0.05, 0.1, 0.2, 0.5)


@cache
def explorer_fits() -> tuple:
    """A problem: best design, mean and scale of the values; surrogates for all weights; norms ``(3, 5)``; errors."""
    with reproducible():
        rng, k = np.random.default_rng(0), len(EXPLORER_LAMS)
        X, y, mean, std, box = offline_data(rng)
        w, tiled = np.tile(random_weights(WIDTHS, 1, rng), (k, 1)), (np.tile(X, (k, 1, 1)), np.tile(y, (k, 1)))
        w = fit_surrogate(*tiled, w, WIDTHS, rng, lam=EXPLORER_LAMS).w
        norms = [gradient_norm(w, where, WIDTHS) for where in (X, box)]
        norms.append(gradient_norm(w[:, None], box[:, None], WIDTHS).mean(axis=1))
    return (X[-1:], mean, std), w, np.array(norms), ((predict(w, X, WIDTHS) - y) ** 2).mean(axis=1)


def explorer() -> Explorer:
    """A climb on the surrogate: what it predicts, how far that could move, and what is true."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    steps = np.arange(0, 101, 4)

    def compute(context, lam: float, rho: float) -> dict:
        ((best, mean, std), w, norms, errors), i = context, EXPLORER_LAMS.index(lam)
        path = list(accumulate(steps[1:], lambda x, _: climb(w[i], x, WIDTHS, steps=4), initial=best))
        designs, width = np.concatenate(path), rho * gradient_norm(w[i], np.array(path), WIDTHS)
        found = {"truth": (true_value(designs) - mean) / std, "prediction": predict(w[i], designs, WIDTHS)}
        return {**found, "width": width, "norms": norms, "i": i, "error": errors[i]}

    def draw(state) -> go.Figure:
        prediction, width, norms, i = (state[name] for name in ("prediction", "width", "norms", "i"))
        way = [
            line("prediction", steps, prediction, theme.BLUE),
            line("moved up or down", steps, prediction + width, theme.SKY, dash="dot"),
            line("", steps, prediction - width, theme.SKY, dash="dot", showlegend=False),
            line("true value", steps, state["truth"], theme.BLACK, dash="dash"),
        ]
        place = np.arange(len(EXPLORER_LAMS))
        every = [
            line("mean, on the data", place, norms[0], theme.VERMILION),
            line("mean, whole box", place, norms[1], theme.ORANGE, dash="dash"),
            line("single, whole box", place, norms[2], theme.PURPLE, dash="dot"),
            points("present weight", [i] * 3, norms[:, i], theme.BLACK, symbol="circle-open", size=13),
        ]
        ticks = {"tickvals": place, "ticktext": [f"{lam:g}" for lam in EXPLORER_LAMS], "range": [-0.3, 4.3]}
        return panels(
            Panel("a climb from the best design", way, "step", "standard deviations", {}, {"range": [-1, 6]}),
            Panel("norms of gradients of predictions", every, "weight λ", "norm", ticks, {"range": [0, 9]}),
        )

    def describe(values, state) -> str:
        return (
            f"The climb ends at a prediction of {state['prediction'][-1]:.2f}; {state['truth'][-1]:.2f} is true. A "
            f"move of the weights by {values['rho']:g} can change it by {state['width'][-1]:.2f}, the mean on the data "
            f"by {values['rho'] * state['norms'][0, state['i']]:.2f}. Mean squared error there: {state['error']:.3f}."
        )

    return Explorer(
        controls=(
            Choice("lam", "weight λ of the penalty", EXPLORER_LAMS, default=0.2),
            Choice("rho", "move ρ of the weights", (0.05, 0.1, 0.2, 0.3), default=0.2),
        ),
        prepare=explorer_fits,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Raise λ from 0: the dotted band becomes narrower, all norms fall, and the error on the data grows.",
            "Compare prediction and truth: a narrow band is not a right one.",
        ),
        name="surrogate_sharpness",
    )
