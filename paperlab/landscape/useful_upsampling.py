r"""Find the examples that a network learns late, count them twice, and train again: slow features get their chance.

Gradient descent learns the loudest feature first. Once that one explains most examples, their gradients vanish, and
whatever else they have in common is learnt late or never. Sharpness-aware minimisation (SAM) learns features more
evenly. USEFUL gets there with data alone: it trains for a short while, splits the examples of each class into two
groups by the network's outputs, duplicates the group with the larger loss, and trains again from the start.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`x^{(p)}`         patch :math:`p` of an example, ``(d,)``; an example is ``(patches, d)``
:math:`y`               label, -1 or 1
:math:`w_j`             filters, the rows of ``W`` ``(m, d)``; the same for all patches
:math:`v_e, v_d`        the fast and the slow feature, unit vectors; :math:`\beta_e = 1` and :math:`\beta_d`, their
                        strengths in the data
:math:`\alpha`          share of the examples that have the fast feature; all have the slow one
:math:`a_e, a_d`        how well they are learnt: the largest :math:`\langle w_j, v \rangle` over the filters
:math:`\rho`            radius of SAM
======================= ========================================================================================

.. math:: f(x) = \sum_j \sum_p \langle w_j, x^{(p)} \rangle^3, \quad
   L = \sum_i q_i \log(1 + e^{-y_i f(x_i)}), \quad
   \nabla_{w_j} L = - \sum_i q_i \frac{3 y_i}{1 + e^{y_i f(x_i)}} \sum_p \langle w_j, x_i^{(p)} \rangle^2 x_i^{(p)} .

The weights :math:`q_i` sum to 1; a duplicated example has twice the weight. While outputs are small, a filter's product
with a feature grows as :math:`\dot a = \frac32 \beta^3 a^2` times the share of examples that have it: half the
strength, an eighth of the speed.

Guarantee: that SAM learns both features more evenly, early in training, is a theorem for data of this kind. USEFUL
rests on it and on experiments.

Not reproduced: CIFAR, STL and Tiny-ImageNet with ResNets, and the gain of USEFUL on top of SAM. We stop the short
training when the loss is at half its start; the paper looks for the bend of the training error. The data follow
summaries of the paper and not its text; :math:`\beta_d = 0.6` and :math:`\alpha = 0.8` are ours.

Reference: Nguyen, Haddad, Gan and Mirzasoleiman: Changing the Training Data Distribution to Reduce Simplicity Bias
Improves In-distribution Generalization, NeurIPS 2024, arXiv 2404.17768.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.perturbation import sam_perturbation

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

# The coordinates of a patch that carry the fast and the slow feature
FAST, SLOW = 0, 1


class Examples(NamedTuple):
    """Patches, labels, and which examples have the fast feature."""

    X: Float[np.ndarray, "n patches d"]
    y: Float[np.ndarray, " n"]
    fast: Bool[np.ndarray, " n"]


def feature_data(rng: np.random.Generator, n: int, slow=0.6, share=0.8, noise=0.4, d: int = 10) -> Examples:
    """``n`` examples of three patches: ``y v_e`` or 0, ``slow y v_d``, and noise at right angles to both features.

    Half of the labels are 1, and the share ``share`` of the examples, rounded, has the fast feature, whatever the
    label. The order of the patches does not matter to the network. Raises ``ValueError`` for bad numbers.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must be between 0 and 1")
    y = np.where(np.arange(whole_number("n", n, 2)) % 2, 1.0, -1.0)
    fast = rng.permutation(n) < round(share * n)
    X = np.zeros((n, 3, whole_number("d", d, 3)))
    X[:, 0, FAST], X[:, 1, SLOW] = y * fast, positive("slow", slow) * y
    X[:, 2, 2:] = positive("noise", noise) * rng.normal(size=(n, d - 2))
    return Examples(X, y, fast)


def start(rng: np.random.Generator, m: int = 40, d: int = 10, scale: float = 0.03) -> Float[np.ndarray, "m d"]:
    """Gaussian filters of standard deviation ``scale``, stretched along both features until either has strength
    ``2 * scale``, so that none has a head start. Raises ``ValueError`` for fewer than 10: all might point away from it.
    """
    W = positive("scale", scale) * rng.normal(size=(whole_number("m", m, 10), d))
    W[:, [FAST, SLOW]] *= 2 * scale / strengths(W)
    return W


def network(W: Float[np.ndarray, "m d"], X: Float[np.ndarray, "n patches d"]) -> Float[np.ndarray, " n"]:
    """The outputs of the cubic convolutional network."""
    # f(x) = sum_j sum_p <w_j, x^(p)>^3
    return ((X @ W.T) ** 3).sum(axis=(1, 2))


def example_losses(f: Float[np.ndarray, "... n"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "... n"]:
    """The logistic loss of each example, in nats."""
    return np.logaddexp(0, -y * f)


def strengths(W: Float[np.ndarray, "... m d"]) -> Float[np.ndarray, "... 2"]:
    """How well the features are learnt, fast and slow: the largest of their products with the filters."""
    return W[..., [FAST, SLOW]].max(axis=-2)


def error(W: Float[np.ndarray, "m d"], new: Examples) -> float:
    """Percent of the examples without the fast feature that are classified wrongly."""
    return 100 * float((network(W, new.X[~new.fast]) * new.y[~new.fast] <= 0).mean())


@dataclass(frozen=True, eq=False)
class Run:
    """Filters and outputs after every fifth step, the start and the end among them."""

    W: Float[np.ndarray, "k+1 m d"]
    f: Float[np.ndarray, "k+1 n"]


def train(X, y, W, lr: float = 0.5, steps: int = 300, rho: float = 0.0, weights=None) -> Run:
    """Gradient descent with all examples, or SAM of radius ``rho`` if that is above 0, from the filters ``W``.

    ``weights``: how often each example counts, ``(n,)``, once by default; only their proportions matter. ``steps`` is a
    multiple of 5. Raises ``ValueError`` for bad data, shapes that do not fit, or bad numbers.
    """
    X, y, W = finite_array("X", X, ndim=3), finite_array("y", y, ndim=1), finite_array("W", W, ndim=2)
    weights = np.ones(len(y)) if weights is None else finite_array("weights", weights, ndim=1)
    if len(y) != len(X) or W.shape[1] != X.shape[2] or weights.shape != y.shape:
        raise ValueError(f"X has shape {X.shape}; y {y.shape}, weights {weights.shape} and W {W.shape} do not fit")
    if set(np.unique(y)) != {-1, 1}:
        raise ValueError(f"y={y} must be -1 and 1, both of them")
    if weights.min() < 0 or weights.sum() == 0:
        raise ValueError(f"weights={weights} must not be negative, nor all 0")
    if whole_number("steps", steps, 5) % 5 or rho < 0:
        raise ValueError(f"steps={steps} must be a multiple of 5, rho={rho} not negative")
    (n, patches, d), lr, q = X.shape, positive("lr", lr), weights / weights.sum()
    rows, Ws, fs = X.reshape(-1, d), [W], []

    def outputs_and_gradient(W):
        products = rows @ W.T
        squares = products * products
        f = np.einsum("pj,pj->p", products, squares).reshape(n, patches).sum(axis=1)
        # c_i = -q_i 3 y_i / (1 + exp(y_i f_i)),  gradient_j = sum_i c_i sum_p <w_j, x_i^(p)>^2 x_i^(p)
        c = -3 * q * y / (1 + np.exp(np.minimum(y * f, 500)))
        return f, (squares.T * np.repeat(c, patches)) @ rows

    for step in range(steps):
        f, gradient = outputs_and_gradient(W)
        if step % 5 == 0:
            fs.append(f)
        if rho:
            # SAM: the gradient at W + rho g / |g|
            gradient = outputs_and_gradient(W + sam_perturbation(gradient, rho))[1]
        W = W - lr * gradient
        if step % 5 == 4:
            Ws.append(W)
    return Run(np.array(Ws), np.array([*fs, network(W, X)]))


def two_means(outputs: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, " n"]:
    """Split points into two clusters by k-means; which of them is True says nothing.

    Lloyd's iteration from the point farthest from the mean and the point farthest from that one. It ends where no point
    is closer to the other cluster's mean; that this is the best split is not guaranteed. Raises ``ValueError`` if all
    points are the same.
    """
    points = finite_array("outputs", outputs, ndim=2)
    distance = lambda centre: ((points - centre) ** 2).sum(axis=1)  # noqa: E731
    one = points[distance(points.mean(axis=0)).argmax()]
    other = points[distance(one).argmax()]
    if (one == other).all():
        raise ValueError(f"outputs={points[0]} are the same for all {len(points)} points")
    cluster = distance(one) < distance(other)
    while True:
        one, other = points[cluster].mean(axis=0), points[~cluster].mean(axis=0)
        nearer = distance(one) < distance(other)
        if (nearer == cluster).all():
            return cluster
        cluster = nearer


def slow_examples(outputs: Float[np.ndarray, "n c"], classes, losses) -> Bool[np.ndarray, " n"]:
    """Which examples are learnt late: in each class the cluster of outputs with the larger mean loss.

    ``classes``, ``losses``: ``(n,)``. For a network with one output per example ``c`` is 1. Raises ``ValueError`` for
    shapes that do not fit, or a class whose outputs are all the same.
    """
    outputs, losses = finite_array("outputs", outputs, ndim=2), finite_array("losses", losses, ndim=1)
    classes = np.asarray(classes)
    if classes.shape != losses.shape or len(outputs) != len(losses):
        raise ValueError(f"losses has shape {losses.shape}, classes {classes.shape}, outputs {outputs.shape}")
    found = np.zeros(len(losses), dtype=bool)
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        cluster = two_means(outputs[rows])
        larger = losses[rows][cluster].mean() > losses[rows][~cluster].mean()
        found[rows] = cluster == larger
    return found


def separation(run: Run, y: Float[np.ndarray, " n"]) -> int:
    """The first record of a run at which the mean loss is at most half of that at the start.

    Raises ``ValueError`` if there is none.
    """
    losses = example_losses(run.f, y).mean(axis=1)
    if (losses > losses[0] / 2).all():
        raise ValueError(f"run ends at a loss of {losses[-1]:.3f} nats, above half of {losses[0]:.3f}: train longer")
    return int((losses <= losses[0] / 2).argmax())


def useful_weights(run: Run, y: Float[np.ndarray, " n"], record: int | None = None) -> Float[np.ndarray, " n"]:
    """How often USEFUL counts each example: 2 times those learnt late, by the outputs of a short training ``run``.

    ``record``: at which of its records; by default at the separation.
    """
    f = run.f[separation(run, y) if record is None else record]
    return 1.0 + slow_examples(f[:, None], y, example_losses(f, y))


ARMS = ("gradient descent", "SAM", "USEFUL", "random duplicates")
NETWORKS, EXAMPLES, RADIUS = 10, 100, 0.2


@dataclass(frozen=True, eq=False)
class Experiment:
    """10 networks, each with data of its own, trained in four ways: the ``ARMS``.

    ``strengths``: of the fast and the slow feature, at every fifth step. ``errors``: on new examples without the fast
    feature, in percent. ``grouped``: percent of the examples that the split puts on the right side, at the separation
    and before training. ``split``: of the last network at the separation, output times label, and which examples have
    the fast feature.
    """

    strengths: Float[np.ndarray, "arms networks k+1 2"]
    errors: Float[np.ndarray, "arms networks"]
    grouped: Float[np.ndarray, "networks 2"]
    split: tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """10 networks with 40 filters, 100 examples, 300 steps; each trained in four ways from the same start."""
    found, errors, grouped = [], [], []
    for rng in map(np.random.default_rng, np.random.SeedSequence(seed).spawn(NETWORKS)):
        (X, y, fast), new = feature_data(rng, EXAMPLES), feature_data(rng, 5000)
        W = start(rng)
        plain = train(X, y, W)
        record = separation(plain, y)
        counts = [useful_weights(plain, y, k) for k in (record, 0)]
        arms = {"rho": RADIUS}, {"weights": counts[0]}, {"weights": rng.permutation(counts[0])}
        runs = [plain, *(train(X, y, W, **arm) for arm in arms)]
        found.append([strengths(run.W) for run in runs])
        errors.append([error(run.W[-1], new) for run in runs])
        grouped.append([100 * ((each == 1) == fast).mean() for each in counts])
        split = y * plain.f[record], fast
    return Experiment(np.swapaxes(found, 0, 1), np.transpose(errors), np.array(grouped), split)


def slow_at_one(found: Float[np.ndarray, "networks k 2"]) -> float:
    """The slow feature's strength when that of the fast one is at 1, or at the end where it never is; mean."""
    there = found[..., FAST] >= 1
    when = np.where(there.any(axis=1), there.argmax(axis=1), -1)
    return float(found[np.arange(len(when)), when, SLOW].mean())


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    ends, errors = result.strengths[:, :, -1, SLOW].mean(axis=1), result.errors.mean(axis=1)
    early, untrained = result.grouped.mean(axis=0)
    return (
        Claim(
            id="even",
            statement="SAM learns both features more evenly than gradient descent",
            source="theorem on early training with SAM",
            quantity="strength of the slow feature when that of the fast one reaches 1, mean of 10 networks",
            unit="",
            measured=slow_at_one(result.strengths[1]),
            relation=">=",
            bound=0.3,
            control=Control("gradient descent", slow_at_one(result.strengths[0]), "baseline"),
        ),
        Claim(
            id="separable",
            statement="Soon after the start, outputs tell which examples have the fast feature",
            source="abstract: examples with features learned early are separable",
            quantity="examples on the right side of the split, mean of 10 networks",
            unit="%",
            measured=float(early),
            relation=">=",
            bound=80,
            control=Control("the same split before the first step", float(untrained), "ablation"),
        ),
        Claim(
            id="slow",
            statement="Counting the group with the larger loss twice gets the slow feature learnt",
            source="USEFUL: upsample once, train again",
            quantity="strength of the slow feature at the end, mean of 10 networks",
            unit="",
            measured=float(ends[2]),
            relation=">=",
            bound=1.5,
            control=Control("as many examples drawn at random, counted twice", float(ends[3]), "ablation"),
        ),
        Claim(
            id="error",
            statement="With it come fewer errors on new data of the same kind",
            source="title: improves in-distribution generalization",
            quantity="errors on new examples without the fast feature, mean of 10 networks",
            unit="%",
            measured=float(errors[2]),
            relation="<=",
            bound=8,
            control=Control("gradient descent, each example once", float(errors[0]), "baseline"),
        ),
        Observation(
            "Errors on new examples without the fast feature, in %: SAM, random duplicates",
            float(errors[1]),
            float(errors[3]),
            "SAM, with two gradients a step, makes hardly any. Duplicates at random help nobody.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def weights(cluster, losses, summary=np.mean, sign=1):
        counts = 1.0 + (cluster == (sign * summary(losses[cluster]) > sign * summary(losses[~cluster])))
        return counts / counts.sum()

    def cases(rng):
        late = [rng.permutation(n) < n_late for n_late, n in ((2, 4), (2, 8), (4, 20))]
        # In the second case the cluster is that of the early examples
        return [(each == (i != 1), rng.uniform(0.4, 0.6, len(each)) + 0.3 * each) for i, each in enumerate(late)]

    def ending(duplicated):
        return explorer_run(0.6, duplicated, 0.0)["strengths"][-1, SLOW]

    return (
        Exercise(
            id="weights",
            task="Write `weights(cluster, losses)` for one class: `cluster` is True or False for each example. The "
            "cluster with the larger mean loss counts twice. Return weights that sum to 1.",
            solution=weights,
            cases=cases,
            slips={
                "That is the cluster with the smaller loss: it is learnt already.": lambda *case: weights(
                    *case, sign=-1
                ),
                "Compare means. The sum is larger in the larger cluster.": lambda *case: weights(*case, np.sum),
                "The counts are right; divide them by their sum.": lambda *case: weights(*case) / weights(*case).min(),
            },
        ),
        Exercise(
            id="worst",
            task="In the explorer, otherwise at its default: which choice of what counts twice ends with the smallest "
            'strength of the slow feature? Bind `"nothing"`, `"late group"`, `"random"` or `"early group"` to `worst`.',
            solution=lambda: min(EXPLORER_DUPLICATES, key=ending),
            slips={
                "Here the late group's share of the loss at least stays what it was.": lambda: "nothing",
                "That is the one with the largest strength.": lambda: "late group",
            },
            minutes=5,
            kind="experiment",
            answer="The early group: the examples that need the slow feature now have a smaller share of the loss.",
        ),
        Exercise(
            id="wrong_labels",
            task="A few examples with the fast feature have a wrong label. Where does the split put them? (a) In the "
            "early group. (b) In the late group, to count twice. (c) In neither. Bind the letter to `wrong_labels`.",
            solution=lambda: "b",
            slips={
                "The fast feature makes their output large, but with the sign of the other class.": lambda: "a",
                "Each example of a class is in one of its two clusters.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="They have the largest losses: their outputs point to the other class. USEFUL is for clean data.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Both strengths against each other, the outputs at the split, and the slow feature's strength over time."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    looks = (theme.VERMILION, "dash"), (theme.GREEN, "dot"), (theme.BLUE, "solid"), (theme.ORANGE, "dashdot")
    race, over_time = [], []
    for name, found, (colour, dash) in zip(ARMS, result.strengths.mean(axis=1), looks, strict=True):
        race.append(line(name, *found.T, colour, dash=dash, showlegend=False))
        over_time.append(line(name, 5 * np.arange(len(found)), found[:, SLOW], colour, dash=dash))
    (margins, fast), place, ticks = result.split, np.arange(EXAMPLES), {"range": [0, 3.2]}
    split = [
        points("with fast feature", margins[fast], place[fast], theme.SKY),
        points("without", margins[~fast], place[~fast], theme.PURPLE, symbol="diamond"),
    ]
    return panels(
        Panel("race of the features", race, "strength, fast", "strength, slow", {"range": [0, 2.4]}, ticks),
        Panel("one network at the split", split, "output times label", "example",
              {"range": [-1, 4]}, {"range": [-2, EXAMPLES + 1]}),
        Panel("slow feature over time", over_time, "step", "strength", {"range": [0, 300]}, ticks),
        title="Which features are learnt: means of 10 networks",
    )  # fmt: skip


EXPLORER_SLOW, EXPLORER_DUPLICATES = (0.5, 0.55, 0.6, 0.65), ("nothing", "late group", "random", "early group")


@cache
def explorer_start(slow: float) -> tuple[Examples, Float[np.ndarray, "m d"], Run, Float[np.ndarray, " n"]]:
    """Data, first filters, the run of plain gradient descent, and how often USEFUL counts each example."""
    rng = np.random.default_rng(1)
    examples = feature_data(rng, 60, slow)
    W = start(rng, m=20)
    run = train(examples.X, examples.y, W)
    return examples, W, run, useful_weights(run, examples.y)


@cache
def explorer_run(slow: float, duplicated: str, rho: float) -> dict:
    """One training in the explorer: strengths, which examples counted twice, and the error on new examples."""
    with reproducible():
        (X, y, _), W, _, useful = explorer_start(slow)
        choices = np.ones(60), useful, np.random.default_rng(0).permutation(useful), 3 - useful
        counts = choices[EXPLORER_DUPLICATES.index(duplicated)]
        run = train(X, y, W, rho=rho, weights=counts)
        wrong = error(run.W[-1], feature_data(np.random.default_rng(9), 5000, slow))
    return {"strengths": strengths(run.W), "twice": counts == 2, "error": wrong}


def explorer() -> Explorer:
    """The race of both features, with data, duplicates and SAM of your choice."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    steps = 5 * np.arange(61)

    def compute(context, slow: float, duplicated: str, rho: float) -> dict:
        (examples, _, run, _), found = explorer_start(slow), explorer_run(slow, duplicated, rho)
        record = separation(run, examples.y)
        split = examples.y * run.f[record], examples.fast, found["twice"]
        return {**found, "plain": strengths(run.W)[:, SLOW], "split": split, "split at": 5 * record}

    def draw(state) -> go.Figure:
        race = [
            line("fast feature", steps, state["strengths"][:, FAST], theme.SKY, dash="dot"),
            line("slow feature", steps, state["strengths"][:, SLOW], theme.BLUE),
            line("slow feature, plain GD", steps, state["plain"], theme.VERMILION, dash="dash"),
        ]
        margins, fast, twice = state["split"]
        place = np.arange(len(fast))
        split = [
            points("with fast feature", margins[fast], place[fast], theme.SKY),
            points("without", margins[~fast], place[~fast], theme.PURPLE, symbol="diamond"),
            points("counts twice", margins[twice], place[twice], theme.BLACK, symbol="circle-open", size=14),
        ]
        return panels(
            Panel("strengths of the features", race, "step", "strength", {"range": [0, 300]}, {"range": [0, 3.7]}),
            Panel("at the split", split, "output times label", "example", {"range": [-1.5, 4.5]}, {"range": [-2, 61]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        fast, slow = state["strengths"][-1]
        return (
            f"The slow feature ends at {slow:.2f}, the fast one at {fast:.2f}; with plain gradient descent (GD) the "
            f"slow one at {state['plain'][-1]:.2f}. Of the new examples without the fast one {state['error']:.1f} % "
            f"are classified wrongly. {state['twice'].sum()} of 60 count twice, by a split at step {state['split at']}."
        )

    return Explorer(
        controls=(
            Choice("slow", "strength of the slow feature", EXPLORER_SLOW, default=0.6),
            Choice("duplicated", "what counts twice", EXPLORER_DUPLICATES, "late group"),
            Choice("rho", "radius ρ of SAM", (0.0, 0.1, 0.2), default=0.0, names={0.0: "no SAM"}),
        ),
        prepare=lambda: [explorer_start(slow) for slow in EXPLORER_SLOW],
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Go through what counts twice: with the early group the slow feature falls behind plain gradient descent.",
            "Count nothing twice and raise the radius of SAM: the fast feature becomes slower, the slow one wins.",
            "Lower the strength of the slow feature to 0.55: 300 steps are too few now, unless SAM helps.",
        ),
        name="useful_upsampling",
    )  # fmt: skip
