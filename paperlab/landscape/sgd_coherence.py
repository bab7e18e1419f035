r"""Two minima are equally sharp, and SGD leaves only one: what counts is whether the examples agree on the sharp way.

Gradient descent is thrown out of a minimum when the largest eigenvalue of the Hessian exceeds 2 over the learning rate.
SGD sees a few examples at a time. Where all examples are curved in the same direction, a batch shows the true
curvature. Where each is curved in a direction of its own, a batch shows few directions, each far too steep. One number,
the *coherence* of the examples' Hessians, says how well they agree, and gives a condition under which SGD diverges.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`H_i`             Hessian of example :math:`i` at the minimum, positive semidefinite: ``Hs``, ``(n, d, d)``
:math:`H`               their mean; :math:`\lambda_1(H)`, its largest eigenvalue, is the sharpness
:math:`\eta, B`         learning rate; expected batch size: each example enters with probability :math:`B / n`
:math:`\hat J`          one linearised step: :math:`I - \frac\eta B \sum_{i \in \text{batch}} H_i`
:math:`\sigma`          coherence, from 1 (every example its own direction) to :math:`n` (all the same)
======================= ========================================================================================

Coherence compares all examples with the steepest one:

.. math:: S_{ij} = \lVert H_i^{1/2} H_j^{1/2} \rVert_F, \qquad \sigma = \lambda_1(S) / \max_i \lambda_1(H_i).

Guarantee: (Theorem 1) if :math:`\lambda_1(H) > \frac2\eta` or
:math:`\lambda_1(H) > \frac\sigma\eta (\frac nB - 1)^{-1/2}`, the mean of
:math:`\lVert \hat J_k \cdots \hat J_1 \rVert^2` tends to infinity. (Theorem 2) It cannot be improved by much: for
every :math:`\sigma` there are Hessians that are stable as long as
:math:`\lambda_1(H) < \frac{2\sigma}{\eta} (\sigma + \frac nB - 1)^{-1}`. Both speak of the mean square of the
linearised step, for a minimum at which every example has gradient 0.

Not reproduced: nothing large, since the paper's own experiments are on quadratic functions as well. Its theorems were
derived again and are checked here; their numbers and wording were not compared with the text.

Reference: Dexter, Ocejo, Keerthi, Gupta, Acharya, Khanna: A Precise Characterization of SGD Stability Using Loss
Surface Geometry, ICLR 2024, arXiv 2401.12332.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.second_moment import (
    batch_factors,
    critical_learning_rate,
    example_hessians,
    second_moment_radius,
    second_moment_step,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def coherence_matrix(Hs: Float[np.ndarray, "n d d"]) -> Float[np.ndarray, "n n"]:
    """How much of their curvature two examples share: 0 if none. Raises ``ValueError`` for bad Hessians."""
    Hs = example_hessians("Hs", Hs)
    # S_ij = |H_i^(1/2) H_j^(1/2)|_F = sqrt(trace(H_i H_j)); rounding may leave traces just below 0
    traces = np.tensordot(Hs, Hs, axes=((1, 2), (2, 1)))
    return np.sqrt(np.maximum(traces, 0))


def coherence(Hs: Float[np.ndarray, "n d d"]) -> float:
    """The coherence of n Hessians, from 1 to n for Hessians of rank one.

    For rank one ``H_i = a_i a_i^T`` it is the largest eigenvalue of ``|a_i^T a_j|`` over the largest ``|a_i|^2``. Ranks
    above one can raise it, by a factor of at most the root of the rank. Raises ``ValueError`` for bad Hessians.
    """
    # sigma = lambda_1(S) / max_i lambda_1(H_i)
    return float(np.linalg.eigvalsh(coherence_matrix(Hs))[-1] / np.linalg.eigvalsh(Hs)[:, -1].max())


def divergence_threshold(sharpness: float, sigma: float, n: int, batch: float) -> float:
    """Theorem 1: the learning rate above which SGD diverges for certain, in the mean square.

    ``sharpness``: the largest eigenvalue of the mean Hessian; ``sigma``: the coherence. Raises ``ValueError`` for
    numbers that are not positive, or a batch larger than ``n``.
    """
    positive("sharpness", sharpness), positive("sigma", sigma)
    batch_factors(n, batch, "bernoulli")
    # eta > 2 / lambda_1(H)  or  eta > sigma / lambda_1(H) (n / B - 1)^(-1/2)
    noise = np.sqrt(n / batch - 1)
    return float(min(2.0, sigma / noise if noise > 0 else np.inf) / sharpness)


def group_threshold(sharpness: float, sigma: float, n: int, batch: float) -> float:
    """Theorem 2: the critical learning rate of n examples in groups of ``sigma``, each group with its own direction.

    Raises ``ValueError`` for numbers that are not positive, or a batch larger than ``n``.
    """
    positive("sharpness", sharpness), positive("sigma", sigma)
    batch_factors(n, batch, "bernoulli")
    # eta = 2 sigma / lambda_1(H) (sigma + n / B - 1)^(-1)
    return 2 * sigma / (sharpness * (sigma + n / batch - 1))


def group_hessians(
    n: int, groups: int, d: int, rng: np.random.Generator, *, spread: float = 0.0, lengths: float = 0.0
) -> Float[np.ndarray, "n d d"]:
    """Rank-one Hessians of n examples in groups, all in all with sharpness 1.

    Example i is curved along direction ``i % groups``, one of ``groups`` orthogonal random directions, plus a random
    vector of length about ``spread``; its size varies by a factor of about ``exp(lengths)``. Without both, and with
    groups of equal size, these are the Hessians of Theorem 2, and sigma is ``n / groups``.
    Raises ``ValueError`` if there are more groups than examples or dimensions.
    """
    whole_number("groups", groups, 1, min(n, d))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    a = turn[np.arange(n) % groups] + spread * rng.normal(size=(n, d)) / np.sqrt(d)
    a *= np.exp(lengths * rng.normal(size=(n, 1)))
    # lambda_1(1/n sum_i a_i a_i^T) = 1
    a *= np.sqrt(n) / np.linalg.norm(a, 2)
    return a[:, :, None] * a[:, None, :]


def range_projector(H: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The projector onto the range of ``H``: the directions in which some example is curved, and steps move."""
    return np.linalg.pinv(H, rcond=1e-10, hermitian=True) @ H


def sgd_distances(
    Hs: Float[np.ndarray, "n d d"], eta: float, batch: float, steps: int, paths: int, rng: np.random.Generator
) -> Float[np.ndarray, "steps+1 paths"]:
    """SGD itself: the distances from the minimum of ``paths`` runs, each from a random point at distance 1 in the range
    of the mean Hessian. Raises ``ValueError`` for bad Hessians or numbers out of range.
    """
    (n, d, _), eta = example_hessians("Hs", Hs).shape, positive("eta", eta)
    batch_factors(n, batch, "bernoulli")
    w = rng.normal(size=(whole_number("paths", paths, 1), d)) @ range_projector(Hs.mean(axis=0))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    distances = [np.linalg.norm(w, axis=1)]
    for _ in range(whole_number("steps", steps, 1)):
        drawn = rng.random((paths, n)) < batch / n
        # w <- w - eta / B sum_{i in batch} H_i w
        H_batch = (drawn.astype(np.float64) @ Hs.reshape(n, d * d)).reshape(paths, d, d) / batch
        w = w - eta * (H_batch @ w[:, :, None])[:, :, 0]
        distances.append(np.linalg.norm(w, axis=1))
    return np.array(distances)


def root_mean_square(Hs: Float[np.ndarray, "n d d"], eta: float, batch: float, steps: int):
    """The exact root of the mean square distance after 0, 1, ..., ``steps`` steps, ``(steps + 1,)``."""
    X = range_projector(Hs.mean(axis=0))
    X, squares = X / np.trace(X), [1.0]
    for _ in range(whole_number("steps", steps, 1)):
        X = second_moment_step(X, Hs, eta, batch, "bernoulli")
        squares.append(np.trace(X))
    return np.sqrt(np.maximum(squares, 0))  # rounding may leave squares just below 0


PROBLEMS, EXAMPLES = 300, 12
# How many of 12 examples share a direction, and batch sizes.
DIVISORS = (1, 2, 3, 4, 6, 12)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Random problems, groups of equal examples, SGD runs. Learning rates are in units of 1 / sharpness.

    ``eta``: drawn, one a problem. ``exact``: the critical one. ``speaks``: from where on a condition, by name, calls
    the problem unstable. ``groups``: exact and by formula, over sigma and batch size. ``distances``: of 100 runs of
    SGD, by family.
    """

    eta: Float[np.ndarray, " problems"]
    exact: Float[np.ndarray, " problems"]
    speaks: dict[str, Float[np.ndarray, " problems"]]
    groups: dict[str, Float[np.ndarray, " settings"]]
    distances: dict[str, Float[np.ndarray, "steps+1 paths"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """300 random problems; groups of 12 examples; 100 runs of SGD on 12 examples with one and with 12 directions."""
    for_problems, for_groups, for_families = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    rows = []
    for _ in range(PROBLEMS):
        n, d, batch = (int(for_problems.integers(*ends)) for ends in ((12, 41), (2, 11), (1, 3)))
        groups, spread = int(for_problems.integers(1, d + 1)), for_problems.uniform(0, 0.5)
        Hs = group_hessians(n, groups, d, for_problems, spread=spread, lengths=0.3)
        # In the proof, n lambda_1(H) / sigma stands for the sharpness of the steepest example, which is no smaller.
        sigmas = (coherence(Hs), 1.0, n / np.linalg.eigvalsh(Hs)[:, -1].max())
        rows.append((critical_learning_rate(Hs, batch), *(divergence_threshold(1.0, s, n, batch) for s in sigmas)))
    exact, *speaks = np.array(rows).T
    settings = list(itertools.product(DIVISORS, DIVISORS[:-1]))
    in_groups = [group_hessians(EXAMPLES, EXAMPLES // sigma, EXAMPLES, for_groups) for sigma, _ in settings]
    families = {
        "one direction": group_hessians(EXAMPLES, 1, EXAMPLES, for_families, spread=0.5),
        "own directions": group_hessians(EXAMPLES, EXAMPLES, EXAMPLES, for_families, spread=0.5),
    }
    return Experiment(
        eta=np.exp(for_problems.uniform(np.log(0.05), np.log(4.0), size=PROBLEMS)),
        exact=exact,
        speaks=dict(zip(("Theorem 1", "no coherence", "steepest example"), speaks, strict=True)),
        groups={
            "exact": np.array([critical_learning_rate(Hs, b) for Hs, (_, b) in zip(in_groups, settings, strict=True)]),
            "formula": np.array([group_threshold(1.0, sigma, EXAMPLES, b) for sigma, b in settings]),
            "no coherence": np.array([group_threshold(1.0, 1.0, EXAMPLES, b) for _, b in settings]),
        },
        distances={name: sgd_distances(Hs, 0.9, 2, 200, 100, for_families) for name, Hs in families.items()},
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    unstable = result.eta > result.exact
    fires = {name: result.eta > values for name, values in result.speaks.items()} | {"descent": result.eta > 2}
    false_alarms = {name: 100 * float(fired[~unstable].mean()) for name, fired in fires.items()}
    found = {name: 100 * float(fired[unstable].mean()) for name, fired in fires.items()}
    error = {
        name: float(np.exp(np.abs(np.log(result.groups[name] / result.groups["exact"])).max()))
        for name in ("formula", "no coherence")
    }
    farther = {name: 100 * float((path[-1] > path[0]).mean()) for name, path in result.distances.items()}
    return (
        Claim(
            id="no_false_alarm",
            statement="Whatever Theorem 1 calls unstable is unstable",
            source="Theorem 1",
            quantity="share of the stable problems that are called unstable",
            unit="%",
            measured=false_alarms["Theorem 1"],
            relation="<=",
            bound=15,
            control=Control("the condition without coherence: sigma = 1", false_alarms["no coherence"], "ablation"),
        ),
        Claim(
            id="finds_instability",
            statement="Theorem 1 finds most unstable problems, many more than the condition of gradient descent",
            source="abstract: a simplified sufficient condition",
            quantity="share of the unstable problems that are called unstable",
            unit="%",
            measured=found["Theorem 1"],
            relation=">=",
            bound=53,
            control=Control("gradient descent's: sharpness above 2 / eta", found["descent"], "baseline"),
        ),
        Claim(
            id="group_edge",
            statement="For groups of equal examples the formula of Theorem 2 is the exact critical learning rate",
            source="Theorem 2",
            quantity="largest factor between formula and exact, over 30 settings",
            unit="",
            measured=error["formula"],
            relation="<=",
            bound=2,
            control=Control("the same formula with sigma = 1", error["no coherence"], "broken"),
            scale="log",
        ),
        Claim(
            id="sgd_runs",
            statement="At equal sharpness SGD stays where the examples agree, and leaves where they do not",
            source="coherence decides about stability",
            quantity="SGD runs, of 100, that end farther out than they began",
            unit="runs",
            measured=farther["one direction"],
            relation="<=",
            bound=50,
            control=Control("every example with its own direction", farther["own directions"], "assumption violated"),
        ),
        Observation(
            "Learning rate from which Theorem 1 speaks over the exact one: median, largest of 300 problems",
            float(np.median(result.speaks["Theorem 1"] / result.exact)),
            float((result.speaks["Theorem 1"] / result.exact).max()),
            "The condition is sufficient, not necessary: between the exact rate and the theorem's it is silent.",
        ),
        Observation(
            "Share of the unstable problems found by the steepest example's sharpness alone, against Theorem 1, in %",
            found["steepest example"],
            found["Theorem 1"],
            "A step of the proof: SGD diverges if max_i lambda_1(H_i) > n (n/B - 1)^(-1/2) / eta; it speaks no later.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def largest(Hs):
        return np.linalg.eigvalsh(Hs)[:, -1].max()

    def cases(rng):
        shapes = ((2, 2, 1), (4, 3, 1), (6, 4, 2))
        factors = [rng.normal(size=(n, d, rank)) for n, d, rank in shapes]
        return [(A @ A.swapaxes(1, 2),) for A in factors]

    return (
        Exercise(
            id="coherence",
            task=r"Write `coherence(Hs)` for Hessians `Hs` of shape `(n, d, d)`: the largest eigenvalue of $S_{ij} = "
            r"\lVert H_i^{1/2} H_j^{1/2} \rVert_F$ over the largest eigenvalue of all $H_i$. Return a number.",
            solution=coherence,
            cases=cases,
            slips={
                "The trace of H_i H_j is the square of S_ij: take the root.": lambda Hs: (
                    np.linalg.eigvalsh(coherence_matrix(Hs) ** 2)[-1] / largest(Hs)
                ),
                "You divide by the sharpness of the mean; the steepest single example is asked.": lambda Hs: (
                    coherence(Hs) * largest(Hs) / np.linalg.eigvalsh(Hs.mean(axis=0))[-1]
                ),
                "You divide by the mean sharpness of the examples, not by the largest.": lambda Hs: (
                    coherence(Hs) * largest(Hs) / np.linalg.eigvalsh(Hs)[:, -1].mean()
                ),
            },
            difficulty=2,
            minutes=15,
        ),
        Exercise(
            id="smallest_batch",
            task="In the explorer let 4 examples share a direction, with spread 0, and set the rate to 0.95. "
            "Which is the smallest batch on the control with a shrinking mean square? Bind it to `smallest_batch`.",
            solution=lambda: next(batch for batch in DIVISORS if group_threshold(1.0, 4, EXAMPLES, batch) > 0.95),
            slips={
                "With 2 the curve is at 0.89, just below 0.95: the mean square grows, unseen in 20 runs.": lambda: 2,
                "A full batch is stable up to 2, but so are smaller ones at 0.95.": lambda: EXAMPLES,
                "With 1 the curve is at 0.53.": lambda: 1,
            },
            difficulty=1,
            minutes=5,
            kind="experiment",
            answer="8 / (3 + 12 / B) exceeds 0.95 from B = 3 on. Gradient descent would allow 2.",
        ),
        Exercise(
            id="same_examples",
            task="All n examples have the same Hessian, of sharpness 1, and n is large. Every batch agrees with every "
            "other, and still the critical learning rate for B = 1 is about 1, not 2. Why? (a) The examples' gradients "
            "disagree. (b) The number of examples in a batch is random. (c) The mean square says nothing about SGD. "
            "Bind the letter to `same_examples`.",
            solution=lambda: "b",
            slips={
                "They have the same Hessian and the same minimum, so their gradients are the same.": lambda: "a",
                "It says when the mean square grows; the question is where the randomness comes from.": lambda: "c",
            },
            difficulty=3,
            minutes=5,
            kind="think",
            answer="Each example enters by itself, so a batch of expected size 1 has 0, 1, 2 or more examples, with "
            "variance 1. The mean square factor is (1 - eta)^2 + eta^2, which is 1 at eta = 1. With exactly one "
            "example a batch the critical rate is 2 again.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """From where on each condition speaks, over where the mean square really begins to grow, one point a problem."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    ends = [0.05, 4.0]
    axis = {"type": "log", "range": list(np.log10(ends)), "tickvals": [0.05, 0.1, 0.2, 0.5, 1, 2, 4]}
    look = {"size": 6, "opacity": 0.6}
    traces = [
        points("Theorem 1", result.exact, result.speaks["Theorem 1"], theme.BLUE, **look),
        points("no coherence", result.exact, result.speaks["no coherence"], theme.VERMILION, symbol="diamond", **look),
        line("gradient descent", ends, [2, 2], theme.GREY, dash="dot"),
        line("exact", ends, ends, theme.BLACK),
    ]
    x_title, y_title = "exact critical rate × sharpness", "condition's rate × sharpness"
    return panels(
        Panel("", traces, x_title, y_title, axis, axis), title="With coherence the condition never speaks too early"
    )


SPREADS, ETAS = (0.0, 0.3, 0.6), (0.1, 0.15, 0.25, 0.4, 0.65, 0.95, 1.25, 1.65, 2.1)


def explorer() -> Explorer:
    """Stable learning rates over the batch size, for one to 12 directions, beside 20 runs of SGD."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    def prepare() -> dict:
        context = {}
        for sigma, spread in itertools.product(DIVISORS, SPREADS):
            Hs = group_hessians(EXAMPLES, EXAMPLES // sigma, EXAMPLES, np.random.default_rng(0), spread=spread)
            exact = [critical_learning_rate(Hs, batch) for batch in DIVISORS]
            speaks = [divergence_threshold(1.0, coherence(Hs), EXAMPLES, batch) for batch in DIVISORS]
            context[sigma, spread] = {"Hs": Hs, "sigma": coherence(Hs), "exact": exact, "speaks": speaks}
        return context

    def compute(context, sigma: int, spread: float, batch: int, eta: float) -> dict:
        Hs = context[sigma, spread]["Hs"]
        return {
            **context[sigma, spread],
            "now": (batch, eta),
            "factor": second_moment_radius(Hs, eta, batch),
            "paths": sgd_distances(Hs, eta, batch, 60, 20, np.random.default_rng(1)),
            "mean": root_mean_square(Hs, eta, batch, 60),
        }

    def draw(state) -> go.Figure:
        # One trace for all runs: a NaN ends one.
        steps, runs = np.arange(61), np.clip(state["paths"], 1e-12, 1e12)
        broken = np.vstack([runs, np.full(runs.shape[1], np.nan)]).T.ravel()
        batches, now = DIVISORS, state["now"]
        rates = {"type": "log", "range": [-1.2, 0.5], "tickvals": [0.1, 0.2, 0.5, 1, 2]}
        return panels(
            Panel(
                "where SGD is stable: below the solid line",
                [
                    line("exact critical rate", batches, state["exact"], theme.BLUE),
                    line("Theorem 1 speaks above", batches, state["speaks"], theme.VERMILION, dash="dash"),
                    line("gradient descent", [0, 13], [2, 2], theme.GREY, dash="dot"),
                    points("now", [now[0]], [now[1]], theme.BLACK, symbol="x", size=12),
                ],
                "batch size B", "learning rate × sharpness", {"range": [0, 13]}, rates,
            ),
            Panel(
                "20 runs of SGD",
                [
                    line("single runs", np.tile(np.append(steps, 0), runs.shape[1]), broken, theme.SKY, opacity=0.7),
                    line("root mean square", steps, np.clip(state["mean"], 1e-12, 1e12), theme.GREEN, dash="dash"),
                ],
                "steps", "distance from the minimum", {"range": [0, 60]}, {"type": "log", "range": [-6, 6]},
            ),
        )  # fmt: skip

    def describe(values, state) -> str:
        edge, speaks = (state[name][DIVISORS.index(values["batch"])] for name in ("exact", "speaks"))
        verdict = "grows" if state["factor"] > 1 else "shrinks"
        theorem = "says so, too" if values["eta"] > speaks else "is silent"
        far = int((state["paths"][-1] > 1).sum())
        return (
            f"Coherence {state['sigma']:.2f} of at most 12. At learning rate {values['eta']:g} / sharpness the mean "
            f"square {verdict}, in the end by the factor {state['factor']:.3g} a step; the critical rate is "
            f"{edge:.2f} / sharpness. Theorem 1, which speaks from {speaks:.2f} on, {theorem}. After 60 steps {far} of "
            f"20 runs are farther out than they began."
        )

    return Explorer(
        controls=(
            Choice("sigma", "examples that share a direction", DIVISORS, default=2, unit="of 12"),
            Choice("spread", "spread around the direction", SPREADS, default=0.0),
            Choice("batch", "batch size B", DIVISORS, default=2),
            Choice("eta", "learning rate × sharpness", ETAS, default=0.95),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Let more examples share a direction: the sharpness stays 1, and the runs turn from leaving to staying.",
            "Let no two share one, and change B: the solid line follows B, the dashed one about its root.",
            "Spread the directions to 0.6: the theorem falls silent, and still 19 of 20 runs leave.",
        ),
        name="sgd_coherence",
    )
