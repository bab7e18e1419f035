r"""Neural collapse when the features cannot go wherever they like.

At the end of training, features of a class bunch together at their mean, and the means form a regular simplex. The
usual model of this lets the features themselves be free variables, and ends in *exact* collapse, which real networks
never reach. This paper ties the features to given ones that have not collapsed. Then the minimum is only near
collapse, and two things can be said about it: a gradient flow with the best classifier at every moment lowers the
variability within the classes all the way, and close to collapse a linear formula gives the minimum.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`K, n, d`         classes, samples a class, dimension of a feature; :math:`N = Kn`
:math:`H`               features as COLUMNS, ``(d, N)``, sorted by class; ``paperlab.tools`` has rows
:math:`Y`               one-hot labels, ``(K, N)``
:math:`W`               classifier, ``(K, d)``
:math:`H_0`             the given features that H is tied to
:math:`\lambda_W,\lambda_H,\beta` weight decay of classifier and features, strength of the tie
======================= ========================================================================================

.. math:: L(W, H) = \tfrac{1}{2N}\|WH - Y\|^2 + \tfrac{\lambda_W}{2K}\|W\|^2 + \tfrac{\lambda_H}{2N}\|H\|^2
   + \tfrac{\beta}{2N}\|H - H_0\|^2

For given features the best classifier is :math:`W^*(H) = Y H^T (H H^T + n\lambda_W I)^{-1}`: the *central path*. With
it, :math:`N \nabla_H \min_W L = W^{*T}(W^*H - Y) + \lambda_H H + \beta(H - H_0)`, since the derivative through
:math:`W^*` is zero. For :math:`\lambda_H = \beta = 0` the part of :math:`H` within the classes then obeys
:math:`\dot H_w = -W^{*T}W^* H_w`, and can only shrink.

Guarantee: along this flow the ratio tr(within) / tr(between) of the covariances falls at every moment. Around a
collapsed minimum, the minimum for :math:`H_0 + \delta` is that for :math:`H_0` plus a linear map of :math:`\delta`, up
to an error of order :math:`\|\delta\|^2`.

Not reproduced: the paper's experiments with networks, and its study of the hyper-parameters there. Whether the paper
keeps :math:`\lambda_H` beside :math:`\beta` could not be checked; here either may be 0.

Reference: Tirer, Huang, Niles-Weed: Perturbation Analysis of Neural Collapse, ICML 2023, arXiv 2210.16658.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from paperlab.arguments import cost_matrix, finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.neural_collapse import class_statistics

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def one_hot(n_classes: int, n: int) -> Float[np.ndarray, "K N"]:
    """Labels of ``n`` samples a class, sorted by class."""
    return np.kron(np.eye(whole_number("n_classes", n_classes, 2)), np.ones((1, whole_number("n", n, 1))))


def loss(W, H, H0, Y, lam_W: float, lam_H: float, beta: float) -> float:
    """The tied unconstrained-features loss."""
    N, K = H.shape[1], len(Y)
    # L = |WH - Y|^2 / 2N + lambda_W |W|^2 / 2K + lambda_H |H|^2 / 2N + beta |H - H0|^2 / 2N
    squares = [((W @ H - Y) ** 2).sum(), lam_H * (H**2).sum(), beta * ((H - H0) ** 2).sum()]
    return float(sum(squares) / (2 * N) + lam_W * (W**2).sum() / (2 * K))


def best_classifier(H: Float[np.ndarray, "d N"], Y: Float[np.ndarray, "K N"], lam_W: float) -> Float[np.ndarray, "K d"]:
    """The classifier with the least loss for these features, by ridge regression. ``lam_W`` must be positive."""
    H, lam_W = cost_matrix("H", H), positive("lam_W", lam_W)
    n = H.shape[1] / len(Y)
    # W* = Y H^T (H H^T + n lambda_W I)^-1
    return np.linalg.solve(H @ H.T + n * lam_W * np.eye(len(H)), H @ Y.T).T


def feature_gradient(H, H0, Y, lam_W: float, lam_H: float = 0.0, beta: float = 0.0) -> Float[np.ndarray, "d N"]:
    """``N`` times the gradient, in the features, of the loss with the best classifier."""
    W = best_classifier(H, Y, lam_W)
    # W*^T (W* H - Y) + lambda_H H + beta (H - H0)
    return W.T @ (W @ H - Y) + lam_H * H + beta * (H - H0)


def central_path_flow(
    H, Y, lam_W: float, *, step: float = 0.01, steps: int = 3000, every: int = 10
) -> list[np.ndarray]:
    """The gradient flow of the features, ``lam_H = beta = 0``, by Euler steps: the features after each ``every`` steps.

    ``step``: time of one Euler step. It must be small: the guarantee is for the flow.
    """
    H, positions = finite_array("H", H, ndim=2), []
    positive("step", step)
    for t in range(whole_number("steps", steps, 1) + 1):
        if t % every == 0:
            positions.append(H)
        # dH/dt = -N grad_H min_W L
        H = H - step * feature_gradient(H, H, Y, lam_W)
    return positions


def minimise(H0, Y, lam_W: float, lam_H: float, beta: float, tol: float = 1e-10, max_rounds: int = 5000):
    """The minimum ``(W, H)`` by turns: the best classifier for the features, the best features for the classifier.

    Each half is solved exactly, so the loss never rises. Stops when no entry of H moves by more than ``tol``.
    """
    H0 = finite_array("H0", H0, ndim=2)
    positive("lam_H + beta", lam_H + beta)
    H = H0
    for _ in range(max_rounds):
        W, before = best_classifier(H, Y, lam_W), H
        # (W^T W + (lambda_H + beta) I) H = W^T Y + beta H0
        H = np.linalg.solve(W.T @ W + (lam_H + beta) * np.eye(len(H)), W.T @ Y + beta * H0)
        if np.abs(H - before).max() < tol:
            break
    return best_classifier(H, Y, lam_W), H


def collapsed_minimum(n_classes: int, n: int, d: int, lam_W: float, lam_H: float, rng) -> Float[np.ndarray, "d N"]:
    """Features of an exactly collapsed minimum for ``beta = 0``; any rotation of them is one as well.

    Each class sits on one of K orthogonal directions, at squared length ``s sqrt(lam_W / lam_H)`` with
    ``s = 1 - sqrt(lam_W lam_H)``. Raises ``ValueError`` if ``lam_W * lam_H >= 1``, where the minimum is 0, or if
    ``d < n_classes``.
    """
    whole_number("d", d, n_classes)
    s = 1 - np.sqrt(positive("lam_W", lam_W) * positive("lam_H", lam_H))
    if s <= 0:
        raise ValueError(f"lam_W={lam_W} times lam_H={lam_H} must be below 1: otherwise the minimum is 0")
    directions = np.linalg.qr(rng.normal(size=(d, n_classes)))[0]
    return np.repeat(np.sqrt(s * np.sqrt(lam_W / lam_H)) * directions, n, axis=1)


def first_order_change(H, delta, Y, lam_W: float, lam_H: float, beta: float) -> Float[np.ndarray, "d N"]:
    """How the minimising features change, to first order, when ``H0`` moves by ``delta``; ``H`` is the minimum before.

    Solves the linear system that the derivative of "gradient = 0" gives, column by column: for small problems.
    """
    W = best_classifier(H, Y, lam_W)
    residual, inverse = W @ H - Y, np.linalg.inv(H @ H.T + H.shape[1] / len(Y) * lam_W * np.eye(len(H)))

    def derivative(dH):
        # dW = -(W dH H^T + (WH - Y) dH^T) (H H^T + n lambda_W I)^-1
        dW = -(W @ dH @ H.T + residual @ dH.T) @ inverse
        # d[W^T (WH - Y) + lambda_H H + beta (H - H0)] = 0
        return dW.T @ residual + W.T @ (dW @ H + W @ dH) + (lam_H + beta) * dH

    columns = [derivative(unit.reshape(H.shape)).ravel() for unit in np.eye(H.size)]
    return np.linalg.solve(np.array(columns).T, beta * delta.ravel()).reshape(H.shape)


def variability(H: Float[np.ndarray, "d N"], n_classes: int) -> tuple[float, float]:
    """Traces of the covariances within and between the classes; their ratio is NC1."""
    statistics = class_statistics(H.T, np.repeat(np.arange(n_classes), H.shape[1] // n_classes))
    return float(np.trace(statistics.within)), float(np.trace(statistics.between))


CLASSES, SAMPLES, DIMENSION, LAM = 4, 20, 16, 1e-2
BETAS = (10.0, 1.0, 0.1)
SIZES = 10.0 ** np.array([-1, -1.5, -2, -2.5, -3])


@dataclass(frozen=True, eq=False)
class Experiment:
    """Traces (within, between) along the flow, and of minima over beta, by labels; errors of both expansions."""

    flow: dict[str, Float[np.ndarray, "times 2"]]
    minima: dict[str, Float[np.ndarray, "betas 2"]]
    first_order: Float[np.ndarray, " sizes"]
    zeroth_order: Float[np.ndarray, " sizes"]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """80 noisy features of 4 classes in 16 dimensions, with their labels and with shuffled ones; a tiny expansion."""
    features, shuffle, expansion = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    Y = one_hot(CLASSES, SAMPLES)
    means = features.normal(size=(DIMENSION, CLASSES))
    H0 = np.repeat(means, SAMPLES, axis=1) + features.normal(size=(DIMENSION, CLASSES * SAMPLES))
    # Trained on other labels than those whose variability is measured.
    labels = {"true labels": Y, "shuffled labels": Y[:, shuffle.permutation(Y.shape[1])]}
    flow = {
        name: np.array([variability(H, CLASSES) for H in central_path_flow(H0, target, LAM, steps=2000)])
        for name, target in labels.items()
    }
    minima = {
        name: np.array([variability(minimise(H0, target, LAM, LAM, beta, 1e-6)[1], CLASSES) for beta in BETAS])
        for name, target in labels.items()
    }
    small, lam = one_hot(3, 5), 0.05
    H = collapsed_minimum(3, 5, 4, lam, lam, expansion)
    delta = expansion.normal(size=H.shape)
    delta /= np.linalg.norm(delta)
    change = first_order_change(H, delta, small, lam, lam, 1.0)
    exact = [minimise(H + size * delta, small, lam, lam, 1.0, tol=1e-14)[1] for size in SIZES]
    return Experiment(
        flow=flow,
        minima=minima,
        first_order=np.array([np.linalg.norm(E - H - size * change) for size, E in zip(SIZES, exact, strict=True)]),
        zeroth_order=np.array([np.linalg.norm(E - H) for E in exact]),
    )


def ratios(traces: Float[np.ndarray, "times 2"]) -> Float[np.ndarray, " times"]:
    """NC1 from the traces within and between."""
    return traces[:, 0] / traces[:, 1]


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    nc1 = {name: ratios(traces) for name, traces in result.flow.items()}
    between = {name: traces[-1, 1] / traces[0, 1] for name, traces in result.flow.items()}
    tied = {name: ratios(traces) / nc1[name][0] for name, traces in result.minima.items()}
    rises = {name: int((np.diff(values) > 0).sum()) for name, values in nc1.items()}
    order = [np.polyfit(np.log(SIZES), np.log(e), 1)[0] for e in (result.first_order, result.zeroth_order)]
    shuffled = "the same flow towards shuffled labels"
    return (
        Claim(
            id="variability_falls",
            statement="The flow with the best classifier draws each class together, relative to the classes' distances",
            source="main theorem: NC1 along the central path",
            quantity="tr(within) / tr(between) at the end, over its start",
            unit="",
            measured=nc1["true labels"][-1] / nc1["true labels"][0],
            relation="<=",
            bound=0.88,
            control=Control(shuffled, nc1["shuffled labels"][-1] / nc1["shuffled labels"][0], "assumption violated"),
        ),
        Claim(
            id="means_part",
            statement="Meanwhile the class means move apart",
            source="main theorem: the two traces",
            quantity="tr(between) at the end, over its start",
            unit="",
            measured=between["true labels"],
            relation=">=",
            bound=1.04,
            control=Control(shuffled, between["shuffled labels"], "assumption violated"),
        ),
        Claim(
            id="second_order_error",
            statement="Near collapse, the linear formula gives the minimum up to a second-order error",
            source="perturbation analysis around collapse",
            quantity="slope of log error over log size of the perturbation",
            unit="",
            measured=order[0],
            relation=">=",
            bound=1.5,
            control=Control("the collapsed minimum itself, order zero", order[1], "ablation"),
        ),
        Observation(
            "Recorded times, of 200, at which NC1 has risen since the one before: true labels against shuffled ones",
            rises["true labels"],
            rises["shuffled labels"],
            "The theorem says never. Shuffled labels do not always make it rise, so this is no fair control.",
        ),
        Observation(
            "NC1 of the minimum at beta = 0.1 over that of the given features: true labels against shuffled ones",
            tied["true labels"][-1],
            tied["shuffled labels"][-1],
            "The tied minimum is nearer to collapse; but decay alone does some of it, so a claim would be unfair.",
        ),
        Observation(
            "NC1 of the tied minimum over that of the given features: beta = 10 against beta = 0.1",
            tied["true labels"][0],
            tied["true labels"][-1],
            "A strong tie leaves the features where they are; a weak one lets them collapse, but not fully.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def nc1(H, n_classes):
        within, between = variability(H, n_classes)
        return within / between

    def by_total(H, n_classes):
        within, between = variability(H, n_classes)
        return within / (within + between)

    def summed(H, n_classes):
        return nc1(H, n_classes) * H.shape[1] / n_classes

    return (
        Exercise(
            id="nc1",
            task="Write `nc1(H, n_classes)`: the mean squared distance of a feature from its class mean, over the mean "
            "squared distance of a class mean from the mean of the class means. `H` is `(d, N)`, sorted by class, all "
            "classes equally large.",
            solution=nc1,
            cases=lambda rng: [(rng.normal(size=(d, k * n)), k) for d, k, n in ((2, 2, 3), (3, 3, 2), (5, 4, 6))],
            slips={
                "This divides by the total variability; NC1 divides by that between the classes.": by_total,
                "One of your means is a sum: within averages over N samples, between over K classes.": summed,
            },
            difficulty=1,
            minutes=15,
        ),
        Exercise(
            id="loosest_tie",
            task="In the explorer, with noise 0.5 and feature decay 0.01: which is the largest β with which NC1 of the "
            "minimum is below a fifth of that of the given features? Bind it to `loosest_tie`.",
            solution=lambda: next(beta for beta in EXPLORER_BETAS[::-1] if explorer_ratio(beta) < 0.2),
            slips={
                "There it is below a fifth, but a tighter tie does it, too: move β up again.": lambda: 0.01,
                "There the tie still holds the features near the given ones: look at the ratio.": lambda: 1.0,
            },
            difficulty=2,
            minutes=5,
            kind="experiment",
            answer="The tie gives way where beta is about as small as the pull of the labels, which is W^T W.",
        ),
        Exercise(
            id="no_derivative",
            task="The best classifier depends on H, yet the gradient in H has no term for that. Why? (a) The term is "
            "small. (b) W is a constant of the flow. (c) The loss does not change to first order when W leaves its "
            "minimum. Bind the letter to `no_derivative`.",
            solution=lambda: "c",
            slips={
                "It is not small, it is exactly 0.": lambda: "a",
                "W changes along the flow, since H does. Think of what is special about W*(H).": lambda: "b",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="At a minimum the derivative with respect to W is 0, so the chain rule's second term is 0 times "
            "dW*/dH. This is the envelope theorem.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """NC1 along the flow: it falls with the true labels, and hardly moves with shuffled ones."""
    from paperlab.figures.curves import curves

    series = {}
    for name, traces in result.flow.items():
        time = np.linspace(0, 20, len(traces))
        series[f"{name}: NC1"] = (time, ratios(traces) / ratios(traces)[0])
        series[f"{name}: tr(between)"] = (time, traces[:, 1] / traces[0, 1])
    title = "Within the classes features draw together, and the means part"
    return curves(series, title=title, x_title="time of the flow", y_title="relative to the start")


EXPLORER_BETAS, NOISES, DECAYS = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0), (0.1, 0.3, 0.5, 0.8), (0.001, 0.01, 0.1)


def given_features(noise: float) -> Float[np.ndarray, "2 60"]:
    """The explorer's given features: three classes of 20 in the plane."""
    rng = np.random.default_rng(1)
    return np.repeat([[1.0, -0.3, -0.2], [0.1, 0.9, -1.0]], 20, axis=1) + noise * rng.normal(size=(2, 60))


def explorer_ratio(beta: float, noise: float = 0.5, decay: float = 0.01) -> float:
    """NC1 of the explorer's minimum over that of the given features."""
    H0 = given_features(noise)
    H = minimise(H0, one_hot(3, 20), LAM, decay, beta, 1e-4, 300)[1]
    (within, between), (within0, between0) = variability(H, 3), variability(H0, 3)
    return (within / between) / (within0 / between0)


def explorer() -> Explorer:
    """Three classes in the plane: the given features, the tied minimum, its means and its classifier."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points, segments
    from paperlab.widgets import Choice, Explorer

    colours, symbols = (theme.BLUE, theme.VERMILION, theme.GREEN), ("circle", "diamond", "square")

    def prepare() -> dict:
        pairs = [(noise, decay) for noise in NOISES for decay in DECAYS]
        return {pair: [explorer_ratio(beta, *pair) for beta in EXPLORER_BETAS] for pair in pairs}

    def compute(context, beta: float, noise: float, decay: float) -> dict:
        H0 = given_features(noise)
        W, H = minimise(H0, one_hot(3, 20), LAM, decay, beta, 1e-4, 300)
        return {"H0": H0, "H": H, "W": W, "ratios": context[noise, decay], "beta": beta}

    def draw(state) -> go.Figure:
        H0, H = state["H0"], state["H"]
        means = H.reshape(2, 3, 20).mean(axis=2)
        rows = state["W"].T / np.linalg.norm(state["W"]) * np.linalg.norm(means)
        traces = [segments(np.zeros((3, 2)), rows.T, width=2, opacity=0.8)]
        for c, (colour, symbol) in enumerate(zip(colours, symbols, strict=True)):
            own = slice(20 * c, 20 * (c + 1))
            traces.append(points("", *H0[:, own], colour, symbol=symbol, size=6, opacity=0.25, showlegend=False))
            traces.append(points(f"class {c + 1}", *H[:, own], colour, symbol=symbol, size=8))
        traces.append(points("class means", *means, theme.BLACK, symbol="x", size=10))
        here = EXPLORER_BETAS.index(state["beta"])
        curve = line("minimum", EXPLORER_BETAS, state["ratios"], theme.BLUE, showlegend=False)
        now = points("now", [state["beta"]], [state["ratios"][here]], theme.VERMILION, size=12, showlegend=False)
        limits = {"range": [-2.6, 2.6]}
        return panels(
            Panel("given features (faint), minimum, classifier rows (lines)", traces, "first coordinate",
                  "second coordinate", limits, limits, equal=True),
            Panel("how far it has collapsed", [curve, now], "strength of the tie β", "NC1 over that of the given",
                  {"type": "log"}, {"range": [0, 1.05]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        within, between = variability(state["H"], 3)
        ratio = state["ratios"][EXPLORER_BETAS.index(values["beta"])]
        return (
            f"NC1 of the minimum is {within / between:.3f}, {100 * ratio:.0f} % of that of the given features; the "
            f"mean squared distance between classes and their centre is {between:.2f}."
        )

    return Explorer(
        controls=(
            Choice("beta", "strength of the tie β", EXPLORER_BETAS, default=0.3),
            Choice("noise", "noise of the given features", NOISES, default=0.5),
            Choice("decay", "decay of the features λ_H", DECAYS, default=0.01),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Make β small: each class draws together, and the three means spread to equal angles.",
            "Make β large: the minimum stays on the given features, whatever the labels want.",
            "The lines are the classifier's rows: near collapse they point at the class means.",
        ),
        name="perturbed_collapse",
    )
