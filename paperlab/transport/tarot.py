r"""TAROT: data for a target, selected so that little mass must be moved.

Of many candidate samples, which should a model be trained on to do well on a target of which a few samples are known?
Influence methods take the candidates whose gradients point, on average over the targets, the same way. If the target
has a large mode and small ones, the average forgets the small ones. TAROT lets each target choose its nearest
candidates, in gradient features whose directions all have the same weight, and adds such layers. The transport distance
between selection and target says how good a selection is, and when to stop.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`G_c, G_t`        gradients of the loss, a row for each candidate ``(n, p)`` and each target ``(m, p)``
:math:`F_c, F_t`        whitened features with rows of length 1, ``(n, d)`` and ``(m, d)``
:math:`S`               scores :math:`F_c F_t^T`, cosines, ``(n, m)``
:math:`d_{ij}`          whitened feature distance :math:`\sqrt{2 - 2 S_{ij}}`, from 0 to 2
======================= ========================================================================================

1. Project the gradients to few dimensions. With the joint covariance
   :math:`\Sigma = \frac1N F^T F + 10^{-5} I = L L^T` of the centred candidates and targets, whiten
   :math:`F \leftarrow F L^{-T}`, and divide each row by its length.
2. Layer i holds the i-th best candidate of each target. Take whole layers while they fit.
3. Without a given size: divide the targets into folds. Each fold takes the k best candidates of its own targets, those
   with a positive score; k grows until the transport distance to the *other* targets no longer falls. Take the union.

Guarantee: none for the error of the trained model. A selection at transport distance D from the target has a mean of
any function of the features with Lipschitz constant 1 that differs by at most D (Kantorovich and Rubinstein).

Not reproduced: semantic segmentation, motion prediction and instruction tuning, gradients of deep networks, and weights
for the selected samples. The published code fills up the last layer by transport potentials; here the best scores do.
It regularises the transport distance less, by :math:`10^{-4}`, and tries every k.

Reference: Feng, Nie, Liu, Alahi: TAROT: Targeted Data Selection via Optimal Transport, ICML 2025, arXiv 2412.00420.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from paperlab import data
from paperlab.arguments import cost_matrix, finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.sinkhorn import sinkhorn

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def probabilities(X: Float[np.ndarray, "n q"], W: Float[np.ndarray, "q c"]) -> Float[np.ndarray, "n c"]:
    """The classes' probabilities of multinomial logistic regression; ``X`` has a column of ones."""
    Z = X @ W
    # softmax(X W), without overflow
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)


def per_sample_gradients(X, y: Int[np.ndarray, " n"], W: Float[np.ndarray, "q c"]) -> Float[np.ndarray, "n p"]:
    """The gradient of each sample's cross-entropy in the ``p = q c`` weights, as a row."""
    # grad_W (-log p_y) = x (softmax(x W) - e_y)^T
    residuals = probabilities(X, W) - np.eye(W.shape[1])[y]
    return (X[:, :, None] * residuals[:, None, :]).reshape(len(X), -1)


def fit_classifier(X, y, n_classes: int, steps: int = 300, ridge: float = 1e-3) -> Float[np.ndarray, "q c"]:
    """Multinomial logistic regression by Nesterov's accelerated gradient method from 0."""
    W = V = np.zeros((X.shape[1], n_classes))
    # The Hessian of the mean cross-entropy is at most |X|^2 / (2 n)
    step = 1 / (np.linalg.norm(X, 2) ** 2 / (2 * len(X)) + ridge)
    for t in range(steps):
        gradient = X.T @ (probabilities(X, V) - np.eye(n_classes)[y]) / len(X) + ridge * V
        # W+ = V - step grad,  V = W+ + t / (t + 3) (W+ - W)
        new = V - step * gradient
        W, V = new, new + t / (t + 3) * (new - W)
    return W


def project(G: Float[np.ndarray, "n p"], d: int, seed: int) -> Float[np.ndarray, "n d"]:
    """Random projection to ``d`` dimensions; candidates and targets must get the same ``seed``."""
    G = cost_matrix("G", G)
    # F = G Pi / sqrt(p), Pi with independent standard normal entries
    return G @ np.random.default_rng(seed).normal(size=(G.shape[1], d)) / np.sqrt(G.shape[1])


def unit_features(G_c: Float[np.ndarray, "n d"], G_t: Float[np.ndarray, "m d"], ridge: float = 1e-5, whiten=True):
    """Centred features of candidates and targets with rows of length 1, after whitening both together.

    ``ridge`` is added to the covariance, in squared units of the features; ``whiten=False`` only for comparison.
    Raises ``ValueError`` for features that are not finite, of different widths, or a ridge that is not positive.
    """
    G_c, G_t = cost_matrix("G_c", G_c), finite_array("G_t", G_t, ndim=2)
    if G_c.shape[1] != G_t.shape[1]:
        raise ValueError(f"G_t has {G_t.shape[1]} columns; {G_c.shape[1]} are needed, as in G_c")
    F = np.concatenate([G_c, G_t])
    F = F - F.mean(axis=0)
    if whiten:
        # Sigma = F^T F / N + ridge I = L L^T,  F <- F L^-T
        covariance = F.T @ F / len(F) + positive("ridge", ridge) * np.eye(F.shape[1])
        F = np.linalg.solve(np.linalg.cholesky(covariance), F.T).T
    # rows of length 1; a row of zeros stays
    F = F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)
    return F[: len(G_c)], F[len(G_c) :]


def feature_distance(F_1: Float[np.ndarray, "n d"], F_2: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Distances of rows of length 1."""
    # d_ij = sqrt(2 - 2 F_i . F_j)
    return np.sqrt(np.maximum(2 - 2 * F_1 @ F_2.T, 0))


def transport_distance(F_s: Float[np.ndarray, "k d"], F_t: Float[np.ndarray, "m d"], epsilon: float = 0.05) -> float:
    """Mean feature distance of selection and targets under the entropic plan between equal masses on either side."""
    # <d, P> for the plan P of Sinkhorn's algorithm
    cost = feature_distance(F_s, F_t)
    n, m = cost.shape
    return float((sinkhorn(cost, np.full(n, 1 / n), np.full(m, 1 / m), epsilon, tol=1e-3).plan * cost).sum())


def select_layers(S: Float[np.ndarray, "n m"], n_select: int) -> Int[np.ndarray, " k"]:
    """``n_select`` candidates by their scores: the best of each target, then the second best of each, and so on.

    A layer that no longer fits is cut to the candidates with the best score for any target. Raises ``ValueError`` for
    scores that are not finite or a size out of range.
    """
    S = cost_matrix("S", S)
    whole_number("n_select", n_select, 1, len(S))
    taken: list[int] = []
    for layer in np.argsort(-S, axis=0, kind="stable"):
        new = np.setdiff1d(layer, taken)
        # Several targets may choose the same candidate: it counts once
        if len(taken) + len(new) > n_select:
            new = new[np.argsort(-S[new].max(axis=1), kind="stable")]
        taken += list(new[: n_select - len(taken)])
        if len(taken) == n_select:
            break
    return np.array(taken)


def select_mean(S: Float[np.ndarray, "n m"], n_select: int) -> Int[np.ndarray, " k"]:
    """The baseline, as influence methods do it: the candidates with the largest mean score over the targets."""
    return np.argsort(-cost_matrix("S", S).mean(axis=1), kind="stable")[: whole_number("n_select", n_select, 1, len(S))]


@dataclass(frozen=True, eq=False)
class Automatic:
    """A selection of automatic size; ``curve[f, i]`` is the distance for fold f and depth i, ``stops[f]`` the depth
    that the fold chose, as an index.
    """

    selected: Int[np.ndarray, " k"]
    curve: Float[np.ndarray, "folds depths"]
    stops: Int[np.ndarray, " folds"]


def select_automatic(F_c, F_t, depths: Sequence[int], rng: np.random.Generator, n_folds: int = 5) -> Automatic:
    """The union over folds of the k best candidates of each target; k is the first of ``depths`` that no next one
    improves, in the transport distance to the targets of the other folds.

    The whole curve is computed, to be looked at. Raises ``ValueError`` unless there are 2 to m folds.
    """
    S, m = F_c @ F_t.T, len(F_t)
    folds = np.array_split(rng.permutation(m), whole_number("n_folds", n_folds, 2, m))
    order = np.argsort(-S, axis=0, kind="stable")
    selected, curve, stops = [], [], []
    for fold in folds:
        others = np.setdiff1d(np.arange(m), fold)
        # the k best candidates of each target of the fold, with a positive score
        proposals = [np.unique(order[:k, fold][S[order[:k, fold], fold] > 0]) for k in depths]
        distances = np.array([transport_distance(F_c[proposal], F_t[others]) for proposal in proposals])
        rises = np.flatnonzero(np.diff(distances) >= 0)
        stops.append(rises[0] if len(rises) else len(depths) - 1)
        selected.append(proposals[stops[-1]])
        curve.append(distances)
    return Automatic(np.unique(np.concatenate(selected)), np.array(curve), np.array(stops))


# Three modes of the target, unequally many; the candidates hold all ten digits.
MODES, TARGETS, TESTED, SIZE, DIMENSIONS = (1, 4, 8), (40, 12, 8), 60, 60, 128
DEPTHS = (1, 2, 4, 6, 8, 12, 16, 24, 40, 80)


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs with a column of ones, digits, rows of candidates, targets and tests, and gradients of a small model."""

    X: Float[np.ndarray, "all q"]
    y: Int[np.ndarray, " all"]
    candidates: Int[np.ndarray, " n"]
    targets: Int[np.ndarray, " m"]
    tests: Int[np.ndarray, " k"]
    G_c: Float[np.ndarray, "n d"]
    G_t: Float[np.ndarray, "m d"]


def problem(counts: tuple[int, ...], seed: np.random.SeedSequence) -> Problem:
    """Targets with ``counts`` of the digits 1, 4 and 8; tests with 60 of each; candidates are all other digits.

    The gradients, projected to 128 dimensions, are those of logistic regression fitted to 300 candidates.
    """
    rng = np.random.default_rng(seed)
    digits = data.digits()
    X, y = np.hstack([digits.features, np.ones((len(digits.targets), 1))]), digits.targets
    rows = [rng.permutation(np.flatnonzero(y == digit)) for digit in MODES]
    targets = np.concatenate([row[:count] for row, count in zip(rows, counts, strict=True)])
    tests = np.concatenate([row[-TESTED:] for row in rows])
    candidates = rng.permutation(np.setdiff1d(np.arange(len(y)), np.concatenate([targets, tests])))
    W = fit_classifier(X[candidates[:300]], y[candidates[:300]], 10)
    G = project(per_sample_gradients(X, y, W), DIMENSIONS, int(rng.integers(2**32)))
    return Problem(X, y, candidates, targets, tests, G[candidates], G[targets])


def accuracy(given: Problem, selected: Int[np.ndarray, " k"]) -> float:
    """Share of the tests that a classifier gets right which was trained on the selected candidates only."""
    chosen = given.candidates[selected]
    W = fit_classifier(given.X[chosen], given.y[chosen], 10)
    return float((probabilities(given.X[given.tests], W).argmax(axis=1) == given.y[given.tests]).mean())


def counts_of(given: Problem, selected: Int[np.ndarray, " k"]) -> Int[np.ndarray, " 10"]:
    """How many candidates of each digit are selected."""
    return np.bincount(given.y[given.candidates[selected]], minlength=10)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Of 60 selected candidates, by arm: how many of each mode, the accuracy, the transport distance to the targets.

    ``automatic``: the selection without a given size.
    """

    counts: dict[str, Int[np.ndarray, " 3"]]
    accuracy: dict[str, float]
    distance: dict[str, float]
    automatic: Automatic


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """A target of 40 ones, 12 fours and 8 eights, and about 1560 candidates."""
    for_problem, for_arms = np.random.SeedSequence(seed).spawn(2)
    given, rng = problem(TARGETS, for_problem), np.random.default_rng(for_arms)
    F_c, F_t = unit_features(given.G_c, given.G_t)
    raw_c, raw_t = unit_features(given.G_c, given.G_t, whiten=False)
    arms = {
        "TAROT": select_layers(F_c @ F_t.T, SIZE),
        "without whitening": select_layers(raw_c @ raw_t.T, SIZE),
        "mean score": select_mean(raw_c @ raw_t.T, SIZE),
        "random": rng.choice(len(F_c), SIZE, replace=False),
    }
    return Experiment(
        counts={arm: counts_of(given, selected)[list(MODES)] for arm, selected in arms.items()},
        accuracy={arm: accuracy(given, selected) for arm, selected in arms.items()},
        distance={arm: transport_distance(F_c[selected], F_t) for arm, selected in arms.items()},
        automatic=select_automatic(F_c, F_t, DEPTHS, rng),
    )


def excess(automatic: Automatic) -> tuple[float, float]:
    """How far above the least of its curve a fold stops, and the better end of the curve lies; means over folds."""
    above = automatic.curve - automatic.curve.min(axis=1, keepdims=True)
    stops = above[np.arange(len(above)), automatic.stops]
    return float(stops.mean()), float(above[:, [0, -1]].mean(axis=0).min())


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    fewest = {arm: int(counts.min()) for arm, counts in result.counts.items()}
    stopped, ends = excess(result.automatic)
    return (
        Claim(
            id="modes",
            statement="The small modes of the target are not forgotten",
            source="motivation and method: multimodal targets",
            quantity=f"selected candidates of the rarest mode, of {SIZE}",
            unit="candidates",
            measured=fewest["TAROT"],
            relation=">=",
            bound=3,
            control=Control("largest mean score", fewest["mean score"], "baseline"),
        ),
        Claim(
            id="accuracy",
            statement="A classifier trained on the selection knows all modes",
            source="abstract: better than influence methods",
            quantity="accuracy on 60 new samples of each mode",
            unit="",
            measured=result.accuracy["TAROT"],
            relation=">=",
            bound=0.55,
            control=Control("trained on the largest mean scores", result.accuracy["mean score"], "baseline"),
        ),
        Claim(
            id="distance",
            statement="The selection lies near the target",
            source="abstract: minimises the transport distance",
            quantity="transport distance from selection to targets, in units of the features",
            unit="",
            measured=result.distance["TAROT"],
            relation="<=",
            bound=1.1,
            control=Control("random candidates, as many", result.distance["random"], "baseline"),
        ),
        Claim(
            id="stops_well",
            statement="Too few and too many candidates are both bad, and the rule stops in between",
            source="abstract: estimates the best selection ratio",
            quantity="distance to the other folds, above the least of the curve, mean of 5 folds",
            unit="",
            measured=stopped,
            relation="<=",
            bound=0.035,
            control=Control("1 or 80 candidates a target, the better one", ends, "ablation"),
        ),
        Observation(
            "Transport distance: TAROT, against the same layers on features that are not whitened",
            result.distance["TAROT"],
            result.distance["without whitening"],
            "Whitening helps a little, also since the distance is measured in whitened features. The layers do most.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def whiten(F, ridge, rows_first=False, transposed=True):
        F = F - F.mean(axis=0)
        if rows_first:
            F = F / np.linalg.norm(F, axis=1, keepdims=True)
        factor = np.linalg.inv(np.linalg.cholesky(F.T @ F / len(F) + ridge * np.eye(F.shape[1])))
        F = F @ (factor.T if transposed else factor)
        return F if rows_first else F / np.linalg.norm(F, axis=1, keepdims=True)

    return (
        Exercise(
            id="whiten",
            task="Write `whiten(F, ridge)`: centre the columns of `F`, `(N, d)`; whiten with $L^{-T}$, where "
            r"$F^T F / N + \text{ridge} \cdot I = L L^T$; then divide each row by its length.",
            solution=whiten,
            cases=lambda rng: [(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), 0.01) for n, d in ((5, 2), (9, 3))],
            slips={
                "The rows got length 1 before the whitening; after it they must.": partial(whiten, rows_first=True),
                "This is L^-1 on the right: the columns are still correlated.": partial(whiten, transposed=False),
            },
            difficulty=2,
        ),
        Exercise(
            id="first_eight",
            task="In the explorer choose the largest mean score, whitened, with 40, 12, 8 targets. Of the sizes on the "
            "control, which is the smallest with more than 5 eights? Bind it to `first_eight`.",
            solution=lambda: next(n for n in SIZES if explorer_counts(n, "largest mean score")[8] > 5),
            slips={
                "That is enough for the layers, not for the mean: look at the method.": lambda: 60,
                "Not yet: read the number of eights in the sentence.": lambda: 120,
            },
            minutes=5,
            kind="experiment",
            answer="Of 240 candidates one is an eight, of 400 six are. An eight gains little from 52 of 60 targets, so "
            "that even digits that nobody asked for come first.",
        ),
        Exercise(
            id="why_layers",
            task="A target has 98 ones and 2 eights. Why does the mean score choose no eights, at almost any size? (a) "
            "A one gains from 98 targets, an eight from 2. (b) Eights have longer gradients. (c) There are too few "
            'eights to choose from. Bind `"a"`, `"b"` or `"c"` to `why_layers`.',
            solution=lambda: "a",
            slips={
                "All feature vectors have length 1.": lambda: "b",
                "There are more than 100 of them, and only a few are wanted.": lambda: "c",
            },
            minutes=5,
            kind="think",
            answer="A mean adds up what each candidate does for each target, as if the others were not selected. The "
            "sixtieth one adds nothing that 59 have not done; only a distance between whole sets sees that.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The distance to held-out targets over the depth: it falls, and it rises again."""
    from paperlab.figures.curves import curves

    return curves(
        {f"fold {fold + 1}": (DEPTHS, row) for fold, row in enumerate(result.automatic.curve)},
        title="Near the target with a few candidates for each target, away again with many",
        x_title="candidates for each target of the fold",
        y_title="distance to the other folds",
        log_x=True,
    )


SIZES, METHODS = (20, 60, 120, 240, 400), ("layers", "largest mean score")
MIXES = ("40, 12, 8", "20, 20, 20", "56, 2, 2")


def explorer_problem(mix: str) -> dict:
    """A problem with targets as in ``MIXES``, and its features, whitened and not."""
    given = problem(tuple(map(int, mix.split(", "))), np.random.SeedSequence(0))
    return {"given": given, **{whiten: unit_features(given.G_c, given.G_t, whiten=whiten) for whiten in (True, False)}}


def explorer_counts(size: int, method: str) -> Int[np.ndarray, " 10"]:
    """Selected candidates of each digit, with whitening and the default mix."""
    context = explorer_problem(MIXES[0])
    F_c, F_t = context[True]
    return counts_of(context["given"], (select_layers if method == METHODS[0] else select_mean)(F_c @ F_t.T, size))


def explorer() -> Explorer:
    """Candidates, targets and a selection in a plane, and how many of each digit are selected."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, panels, points
    from paperlab.widgets import Choice, Explorer, Toggle

    def prepare() -> dict:
        X = data.digits().features
        axes = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:2]
        return {"plane": (X - X.mean(axis=0)) @ axes.T, **{mix: explorer_problem(mix) for mix in MIXES}}

    def compute(context, size: int, method: str, mix: str, whiten: bool) -> dict:
        given, (F_c, F_t) = context[mix]["given"], context[mix][whiten]
        selected = (select_layers if method == METHODS[0] else select_mean)(F_c @ F_t.T, size)
        W_c, W_t = context[mix][True]
        places = {"candidates": given.candidates[:500], "selected": given.candidates[selected]}
        return {
            "places": {name: context["plane"][rows] for name, rows in {**places, "targets": given.targets}.items()},
            "counts": counts_of(given, selected),
            "chosen": counts_of(given, selected) / size,
            "wanted": np.bincount(given.y[given.targets], minlength=10) / len(given.targets),
            "distance": transport_distance(W_c[selected], W_t),
        }

    def draw(state) -> go.Figure:
        sizes, symbols = (4, 8, 9), ("circle", "circle", "x")
        clouds = [
            points(name, *places.T, colour, size=size, symbol=symbol)
            for (name, places), colour, size, symbol in zip(
                state["places"].items(), (theme.GREY, theme.BLUE, theme.VERMILION), sizes, symbols, strict=True)
        ]  # fmt: skip
        shares = [
            points("share of the selection", np.arange(10), 100 * state["chosen"], theme.BLUE, size=12),
            points("share of the targets", np.arange(10), 100 * state["wanted"], theme.VERMILION, symbol="x", size=10),
        ]
        return panels(
            Panel("digits, first two principal axes", clouds, "first axis", "second axis",
                  {"range": [-2.4, 2.6]}, {"range": [-2.4, 2.6]}),
            Panel("which digits", shares, "digit", "share, %", {"dtick": 1}, {"range": [-3, 100]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        ones, fours, eights = state["counts"][list(MODES)]
        return (
            f"{values['size']} candidates: {ones} ones, {fours} fours, {eights} eights and "
            f"{values['size'] - ones - fours - eights} others. Their transport distance to the targets, in whitened "
            f"features, is {state['distance']:.3f}."
        )

    return Explorer(
        controls=(
            Choice("size", "selected candidates", SIZES, default=60),
            Choice("method", "select by", METHODS, default=METHODS[0]),
            Choice("mix", "targets: ones, fours, eights", MIXES, default=MIXES[0]),
            Toggle("whiten", "whiten the features", default=True),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Select by the largest mean score: the eights are gone, and without whitening the fours, too.",
            "Take 400 candidates: other digits come in, and the distance grows.",
            "Take 20 candidates, fewer than targets: the first layer is cut, and the eights are lost here, too.",
        ),
        name="tarot",
    )
