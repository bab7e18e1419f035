r"""SGD can stay only where the trace of the Hessian is small, gradient descent already where its top eigenvalue is.

An optimizer cannot come to rest at a minimum at which it is unstable. For gradient descent this bounds the largest
eigenvalue of the Hessian, for SGD with one example a step it bounds the sum of all of them. In simple models the trace
is a norm of the parameters, and a small norm means a simple function. So a large learning rate makes SGD choose simple
solutions, among all that fit the data, without any penalty; the bound of gradient descent is too weak for that.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`f_i`             output of the model for example :math:`i`; the loss is half the mean of :math:`(f_i - y_i)^2`
:math:`a_i`             its gradient in the weights, the rows of ``A``, ``(n, p)``
:math:`H`               :math:`\tfrac1n \sum_i a_i a_i^T`, the Hessian at weights that fit all data
:math:`\eta, B`         learning rate, batch size
:math:`u, v`            weights of a diagonal linear network :math:`f(x) = \sum_j u_j v_j x_j`, ``(d,)`` each
:math:`\beta`           its function: :math:`\beta_j = u_j v_j`
:math:`\Sigma_j`        mean square of input :math:`j`
======================= ========================================================================================

Gradient descent: stable if and only if :math:`\lambda_{\max}(H) < 2 / \eta`. SGD with :math:`B = 1`: the mean square
distance from the minimum grows in some direction if :math:`\operatorname{tr} H > 2 / \eta`. Traces:

.. math:: \text{diagonal: } \sum_j \Sigma_j (u_j^2 + v_j^2) \ge 2 \sum_j \Sigma_j |\beta_j|, \qquad
   \text{ReLU: } \tfrac d2 \lVert a \rVert^2 + \tfrac12 \lVert W \rVert_F^2 \ge \sqrt d \sum_j |a_j| \lVert w_j \rVert

for :math:`f(x) = \sum_j a_j (w_j^T x)_+` and inputs uniform on the sphere of radius :math:`\sqrt d`. Equality holds for
balanced weights; the right-hand sides are a weighted 1-norm and the path norm.

Guarantee: the trace bound is necessary for stability of the linearised SGD, in the mean square, for :math:`B = 1`. It
is not sufficient, and larger batches may exceed it.

Not reproduced: ReLU networks trained on images, the bounds of the test error with their constants, and the condition on
the Frobenius norm. The statements were derived again; the theorems' wording was not compared with the text.

Reference: Wu, Su: The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent, ICML 2023, arXiv
2305.17490.
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
from paperlab.tools.second_moment import critical_learning_rate

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def hessian_trace(A: Float[np.ndarray, "... n p"]) -> Float[np.ndarray, " ..."]:
    """The trace of the Hessian at weights that fit, from the gradients of the outputs."""
    # tr H = 1/n sum_i |a_i|^2
    return (A**2).sum(axis=-1).mean(axis=-1)


def top_eigenvalue(A: Float[np.ndarray, "... n p"]) -> Float[np.ndarray, " ..."]:
    """The largest eigenvalue of the Hessian at weights that fit, from the gradients of the outputs."""
    # lambda_max(A^T A / n) = lambda_max(A A^T / n)
    return np.linalg.eigvalsh(A @ A.swapaxes(-1, -2))[..., -1] / A.shape[-2]


def critical_rate(A: Float[np.ndarray, "n p"], batch: int = 1) -> float:
    """The exact learning rate above which SGD, linearised at weights that fit, grows in the mean square.

    ``batch`` examples a step, drawn with replacement. Raises ``ValueError`` for gradients that are not a finite matrix.
    """
    A = finite_array("A", A, ndim=2)
    # Only the span of the gradients matters: coordinates in an orthonormal basis of it
    left, sizes, _ = np.linalg.svd(A, full_matrices=False)
    a = left * sizes
    return critical_learning_rate(a[:, :, None] * a[:, None, :], batch, sampling="with replacement")


def diagonal_gradients(X: Float[np.ndarray, "... n d"], u, v) -> Float[np.ndarray, "... n 2d"]:
    """The gradients of a diagonal network's outputs in ``(u, v)``; ``u``, ``v``: ``(..., d)``."""
    # f_i = sum_j u_j v_j x_ij:  df_i/du_j = v_j x_ij,  df_i/dv_j = u_j x_ij
    return np.concatenate([v[..., None, :] * X, u[..., None, :] * X], axis=-1)


def relu_gradients(X: Float[np.ndarray, "n d"], a: Float[np.ndarray, " m"], W: Float[np.ndarray, "m d"]):
    """The gradients of a two-layer ReLU network's outputs in ``(a, W)``, ``(n, m + m d)``."""
    before = X @ W.T
    # f_i = sum_j a_j (w_j^T x_i)_+:  df_i/da_j = (w_j^T x_i)_+,  df_i/dw_j = a_j 1[w_j^T x_i > 0] x_i
    inner = (a * (before > 0))[:, :, None] * X[:, None, :]
    return np.concatenate([np.maximum(before, 0), inner.reshape(len(X), -1)], axis=1)


def relu_trace(a: Float[np.ndarray, " m"], W: Float[np.ndarray, "m d"]) -> float:
    """The trace for a two-layer ReLU network whose inputs are uniform on the sphere of radius ``sqrt(d)``."""
    # tr H = d/2 |a|^2 + 1/2 |W|_F^2
    return float(W.shape[1] / 2 * (a**2).sum() + (W**2).sum() / 2)


def path_norm(a: Float[np.ndarray, " m"], W: Float[np.ndarray, "m d"]) -> float:
    """``sum_j |a_j| |w_j|``: the same for all networks that are rescalings of each other."""
    return float((np.abs(a) * np.linalg.norm(W, axis=1)).sum())


def balance(a: Float[np.ndarray, " m"], W: Float[np.ndarray, "m d"]) -> tuple[np.ndarray, np.ndarray]:
    """The rescaling ``(t_j a_j, w_j / t_j)`` with the smallest trace: the same function."""
    # d/2 t^2 a_j^2 + |w_j|^2 / (2 t^2) is smallest where both terms are equal: t^2 = |w_j| / (sqrt(d) |a_j|)
    t = np.sqrt(np.linalg.norm(W, axis=1) / (np.sqrt(W.shape[1]) * np.abs(a)))
    return t * a, W / t[:, None]


def warm_up(lr: float | Float[np.ndarray, " r"], steps: int, share: float = 0.3) -> Float[np.ndarray, "steps r"]:
    """Learning rates, one a run, that rise linearly during the first ``share`` of all steps and then stay.

    Without it SGD often diverges at the start, where the trace is large. Raises ``ValueError`` for a rate or a number
    of steps that is not positive.
    """
    rates = finite_array("lr", np.atleast_1d(lr), ndim=1)
    positive("lr", rates.min())
    done = np.arange(1, whole_number("steps", steps, 1) + 1) / (share * steps)
    return np.outer(np.minimum(1, done), rates)


def train(
    X: Float[np.ndarray, "r n d"],
    y: Float[np.ndarray, "r n"],
    u: Float[np.ndarray, "r d"],
    v: Float[np.ndarray, "r d"],
    lr: Float[np.ndarray, "steps r"],
    batch: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, "r d"]]:
    """Train r diagonal linear networks, one a problem, with a learning rate for each step and problem.

    ``batch`` examples a step, drawn with replacement; all n: gradient descent. Returns the weights ``u``, ``v``, NaN
    for runs that diverged. Raises ``ValueError`` for inputs that are not finite or a batch size out of range.
    """
    X = finite_array("X", X, ndim=3)
    (r, n, _), runs = X.shape, np.arange(len(X))[:, None]
    drawn = rng.integers(n, size=(len(lr), r, whole_number("batch", batch, 1, n)))
    x, target, u, v = X, y[:, :, None], u[:, :, None], v[:, :, None]
    with np.errstate(over="ignore", invalid="ignore"):
        for t, rates in enumerate(finite_array("lr", lr, ndim=2)[:, :, None, None] / batch):
            if batch < n:
                x, target = X[runs, drawn[t]], y[runs, drawn[t], None]
            # g = 1/B sum_i (f_i - y_i) x_i;  u <- u - eta g v,  v <- v - eta g u
            step = rates * (x.swapaxes(1, 2) @ (x @ (u * v) - target))
            u, v = u - step * v, v - step * u
    return u[:, :, 0], v[:, :, 0]


SAMPLES, INPUTS, PROBLEMS, RATES = 20, 40, 8, (0.01, 0.02, 0.04, 0.07, 0.1)


def sparse_problems(r: int, n: int, d: int, rng: np.random.Generator, scale: float = 1.0):
    """r problems with n Gaussian inputs and 3 that matter: ``X``, ``y``, ``beta``, and initial ``u``, ``v``."""
    X = rng.normal(size=(r, n, d))
    beta = np.where(np.arange(d) < 3, rng.choice([-1.0, 1.0], size=(r, d)), 0.0)
    u, v = scale * rng.normal(size=(2, r, d))
    return X, np.einsum("rnd,rd->rn", X, beta), beta, u, v


@dataclass(frozen=True, eq=False)
class Experiment:
    """Minima that SGD and gradient descent find in 8 problems, ``(rates, problems)`` each; and traces.

    ``trace`` of the Hessian and ``error``, the distance of beta from the truth, by method; NaN for runs that diverged.
    ``critical``: exact critical rates at SGD's minima for learning rate 0.07. ``beyond``: critical rates of random
    problems times half the trace, by batch size. ``relu``: sampled trace over ``sqrt(d)`` times the path norm.
    """

    trace: dict[str, Float[np.ndarray, "rates problems"]]
    error: dict[str, Float[np.ndarray, "rates problems"]]
    critical: Float[np.ndarray, " problems"]
    beyond: dict[int, Float[np.ndarray, " random"]]
    relu: dict[str, float]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """8 sparse problems with 20 samples and 40 inputs at 5 learning rates; 60 random problems; one ReLU network."""
    for_problems, for_batches, for_random, for_relu = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    # All learning rates at once: the problems are repeated, with the same starts.
    shape = len(RATES), PROBLEMS
    X, y, beta, u, v = (
        np.concatenate([part] * len(RATES)) for part in sparse_problems(PROBLEMS, SAMPLES, INPUTS, for_problems)
    )
    trace, error, gradients = {}, {}, {}
    for name, batch, steps in (("SGD", 1, 10_000), ("gradient descent", SAMPLES, 3000)):
        lr = warm_up(np.repeat(RATES, PROBLEMS), steps)
        ends = train(X, y, u, v, lr, batch, for_batches)
        gradients[name] = diagonal_gradients(X, *ends)
        trace[name] = hessian_trace(gradients[name]).reshape(shape)
        error[name] = np.linalg.norm(ends[0] * ends[1] - beta, axis=1).reshape(shape)
    beyond = {1: [], 8: []}
    for _ in range(60):
        n, d = int(for_random.integers(10, 21)), int(for_random.integers(2, 11))
        A = for_random.normal(size=(n, d)) * np.exp(for_random.uniform() * for_random.normal(size=d))
        for batch, values in beyond.items():
            values.append(critical_rate(A, batch) * hessian_trace(A) / 2)
    inputs = for_relu.normal(size=(20_000, 10))
    inputs *= np.sqrt(10) / np.linalg.norm(inputs, axis=1, keepdims=True)
    a, W = balance(for_relu.normal(size=8), for_relu.normal(size=(8, 10)))
    networks = {"balanced": (a, W), "rescaled": (3 * a, W / 3)}
    found = gradients["SGD"].reshape(*shape, SAMPLES, 2 * INPUTS)[RATES.index(0.07)]
    return Experiment(
        trace, error,
        critical=np.array([critical_rate(A) for A in found if np.isfinite(A).all()]),
        beyond={batch: np.array(values) for batch, values in beyond.items()},
        relu={
            name: float(hessian_trace(relu_gradients(inputs, *net)) / (np.sqrt(10) * path_norm(*net)))
            for name, net in networks.items()
        },
    )  # fmt: skip


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    rate, slowest, fastest = RATES.index(0.07), 0, len(RATES) - 1
    above = {name: (trace[rate] > 2 / RATES[rate]).sum() for name, trace in result.trace.items()}
    error = {name: np.nanmean(values, axis=1) for name, values in result.error.items()}
    share = {batch: 100 * float((values > 1).mean()) for batch, values in result.beyond.items()}
    return (
        Claim(
            id="trace_bound",
            statement="With one example a step, no minimum is stable beyond the learning rate 2 / tr H",
            source="linear stability of SGD",
            quantity="share of 60 random problems that are stable beyond 2 / tr H",
            unit="%",
            measured=share[1],
            relation="<=",
            bound=50,
            control=Control("8 examples a step", share[8], "assumption violated"),
        ),
        Claim(
            id="selected",
            statement="The minima that SGD finds obey the trace bound; those of gradient descent do not",
            source="stability selects minima",
            quantity="minima, of 8, with tr H > 2 / 0.07",
            unit="minima",
            measured=float(above["SGD"]),
            relation="<=",
            bound=4,
            control=Control("gradient descent, same rate and starts", float(above["gradient descent"]), "baseline"),
        ),
        Claim(
            id="generalises",
            statement="SGD with a large learning rate finds functions closer to the sparse truth",
            source="stable minima of SGD generalise",
            quantity="distance of beta from the truth, mean of 8 problems, learning rate 0.07",
            unit="",
            measured=float(error["SGD"][rate]),
            relation="<=",
            bound=2.3,
            control=Control(
                "gradient descent, same rate and starts", float(error["gradient descent"][rate]), "baseline"
            ),
        ),
        Claim(
            id="large_rate",
            statement="It is the learning rate that does it",
            source="the learning rate sets the strength of the regularisation",
            quantity="distance of beta from the truth, mean of 8 problems",
            unit="",
            measured=float(error["SGD"][fastest]),
            relation="<=",
            bound=2.1,
            control=Control("SGD with 0.01, not 0.1", float(error["SGD"][slowest]), "ablation"),
        ),
        Claim(
            id="path_norm",
            statement="For a balanced ReLU network the trace is the path norm, times the root of the dimension",
            source="trace and parameter norm of two-layer ReLU networks",
            quantity="trace, from 20000 inputs, over sqrt(d) times the path norm",
            unit="",
            measured=result.relu["balanced"],
            relation="<=",
            bound=2,
            control=Control(
                "the same function: a times 3, W divided by 3", result.relu["rescaled"], "assumption violated"
            ),
            scale="log",
        ),
        Observation(
            "Runs, of 40, that diverged: SGD, gradient descent",
            float(np.isnan(result.trace["SGD"]).sum()),
            float(np.isnan(result.trace["gradient descent"]).sum()),
            "A single example can be too steep at the start, where traces are large. Diverged runs are left out above.",
        ),
        Observation(
            "Gradient descent's distance of beta from the truth: learning rate 0.01, 0.1",
            float(error["gradient descent"][slowest]),
            float(error["gradient descent"][fastest]),
            "With 0.01 nearly all of its largest eigenvalues end below 2 / 0.1 already, so its bound hardly acts.",
        ),
        Observation(
            "Exact critical learning rate at the minima that SGD finds with 0.07: smallest, largest of 8",
            float(result.critical.min()),
            float(result.critical.max()),
            "SGD stops near the edge of its stability. A value just below 0.07 can occur: the edge is one of the mean "
            "square, and single runs can stay a little beyond it.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def trace(X, u, v):
        return float(hessian_trace(diagonal_gradients(X, u, v)))

    return (
        Exercise(
            id="trace",
            task="Write `trace(X, u, v)`: the trace of the Hessian of a diagonal linear network that fits its data. "
            "`X` is `(n, d)`, `u` and `v` are `(d,)`. Return a number.",
            solution=trace,
            cases=lambda rng: [(rng.normal(size=(n, d)), *rng.normal(size=(2, d))) for n, d in ((2, 2), (3, 5))],
            slips={
                "The loss is a mean over examples, and so is Sigma: you have the sum.": lambda X, u, v: (
                    len(X) * trace(X, u, v)
                ),
                "That is its smallest value over all rescalings, the 1-norm; not all weights are balanced.": (
                    lambda X, u, v: 2 * ((X**2).mean(axis=0) * np.abs(u * v)).sum()
                ),
                "That is the part of u only: v is trained, too.": lambda X, u, v: trace(X, u, 0 * v),
            },
            difficulty=1,
            minutes=10,
        ),
        Exercise(
            id="first_rate",
            task="In the explorer, with single examples and first weights of scale 1.5: which is the smallest learning "
            "rate on the control with which SGD ends at less than half of gradient descent's trace? Bind it to "
            "`first_rate`.",
            solution=first_rate,
            slips={
                "With 0.03 the bound, 67, is still above the trace of gradient descent, 58.": lambda: 0.03,
                "With the largest rate it does, but with smaller ones as well.": lambda: EXPLORER_RATES[-1],
            },
            difficulty=1,
            minutes=5,
            kind="experiment",
            answer="The bound must cut into the traces that gradient descent is content with, and SGD ends somewhat "
            "below it.",
        ),
        Exercise(
            id="out_of_reach",
            task="SGD with one example a step and learning rate 0.1 trains a diagonal network. All inputs have mean "
            "square 1. Only functions with a 1-norm of 30 or more fit the data. What happens? (a) It finds one, with "
            "balanced weights. (b) It cannot come to rest at any solution. (c) It finds one with a small largest "
            "eigenvalue. Bind the letter to `out_of_reach`.",
            solution=lambda: "b",
            slips={
                "Balanced weights have trace 2 * 30 = 60; what is 2 / 0.1?": lambda: "a",
                "The largest eigenvalue is the bound of gradient descent; SGD's is on the trace.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="The trace is at least twice the 1-norm, 60, whatever the weights. The bound is 20. So the function "
            "itself is out of reach, not only some of its weights: a smaller learning rate is needed.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The trace at the minima found, and their error, over the learning rate, one point a problem."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    looks = {"SGD": (theme.BLUE, "circle"), "gradient descent": (theme.VERMILION, "diamond")}
    rates = {"type": "log", "range": [-2.1, -0.9], "tickvals": list(RATES)}

    def found(values, legend: bool) -> list:
        x = np.repeat(RATES, PROBLEMS)
        return [
            points(name, x, values[name].ravel(), colour, symbol=symbol, showlegend=legend)
            for name, (colour, symbol) in looks.items()
        ]

    bound = line("2 / learning rate", RATES, 2 / np.array(RATES), theme.BLACK, dash="dash")
    traces = {"type": "log", "range": [0.9, 2.4], "tickvals": [10, 20, 50, 100, 200]}
    return panels(
        Panel("", [*found(result.trace, True), bound], "learning rate", "trace of the Hessian", rates, traces),
        Panel(
            "", found(result.error, False), "learning rate", "distance of β from the truth", rates, {"range": [0, 6]}
        ),
        title="SGD stays below 2 / learning rate, and gets closer to the truth",
    )


EXPLORER_RATES, SCALES, EXPLORER_STEPS, CHUNK = (0.02, 0.03, 0.05, 0.07, 0.1, 0.13), (0.5, 1.0, 1.5), 1000, 50


def explorer_run(lr: float, batch: int, scale: float):
    """One small network, trained from a start of this scale: its problem, its weights, and its trace over the steps."""
    rng = np.random.default_rng(3)
    X, y, beta, u, v = sparse_problems(1, 10, 20, rng, scale)
    schedule, traces = warm_up(lr, EXPLORER_STEPS), [hessian_trace(diagonal_gradients(X, u, v))[0]]
    for start in range(0, EXPLORER_STEPS, CHUNK):
        u, v = train(X, y, u, v, schedule[start : start + CHUNK], batch, rng)
        traces.append(hessian_trace(diagonal_gradients(X, u, v))[0])
    return X, y[0], beta[0], u, v, np.array(traces)


def first_rate() -> float:
    """The smallest learning rate of the explorer with which SGD ends at less than half of gradient descent's trace."""
    ends = ((lr, *(explorer_run(lr, batch, 1.5)[-1][-1] for batch in (1, 10))) for lr in EXPLORER_RATES)
    return next(lr for lr, sgd, descent in ends if sgd < descent / 2)


def explorer() -> Explorer:
    """A small diagonal network: its trace while it is trained, against the bound, and the function it ends with."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    def prepare() -> dict:
        # Gradient descent: the whole batch.
        return {(lr, scale): explorer_run(lr, 10, scale) for lr in EXPLORER_RATES for scale in SCALES}

    def compute(context, lr: float, batch: int, scale: float) -> dict:
        return {"SGD": explorer_run(lr, batch, scale), "gradient descent": context[lr, scale], "bound": 2 / lr}

    def draw(state) -> go.Figure:
        steps, inputs = np.arange(0, EXPLORER_STEPS + 1, CHUNK), np.arange(1, 21)
        looks = {"SGD": (theme.BLUE, "solid", "circle"), "gradient descent": (theme.VERMILION, "dot", "diamond")}
        log_trace = {"type": "log", "range": [0.7, 2.1], "tickvals": [5, 10, 20, 50, 100]}
        traces, functions = [], [points("truth", inputs, state["SGD"][2], theme.BLACK, symbol="line-ew-open", size=16)]
        for name, (colour, dash, symbol) in looks.items():
            _, _, _, u, v, trace = state[name]
            traces.append(line(name, steps, trace, colour, dash=dash))
            functions.append(points(name, inputs, (u * v)[0], colour, symbol=symbol, showlegend=False))
        traces.append(line("2 / learning rate", steps[[0, -1]], [state["bound"]] * 2, theme.GREY, dash="dash"))
        return panels(
            Panel("trace of the Hessian", traces, "steps", "trace", {}, log_trace),
            Panel("the function found", functions, "input j", "βⱼ", {"range": [0, 21]}, {"range": [-1.6, 1.6]}),
        )

    def describe(values, state) -> str:
        parts = []
        for name in ("SGD", "gradient descent"):
            X, _, beta, u, v, trace = state[name]
            top = float(top_eigenvalue(diagonal_gradients(X, u, v))[0])
            error = np.linalg.norm(u * v - beta)
            parts.append(f"{name} ends with trace {trace[-1]:.1f}, top eigenvalue {top:.1f} and error {error:.2f}")
        return f"{'; '.join(parts)}. The bound 2 / learning rate is {state['bound']:.1f}."

    return Explorer(
        controls=(
            Choice("lr", "learning rate", EXPLORER_RATES, default=0.1),
            Choice("batch", "examples in a batch of SGD", (1, 2, 3), default=1, unit="of 10"),
            Choice("scale", "scale of the first weights", SCALES, default=1.5),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Lower the learning rate: once the bound is above the dotted line, SGD ends where gradient descent does.",
            "Take 2 examples a step: SGD may stay above the bound, which is one for single examples.",
            "Start with small weights: both methods stay below the bound, and there is nothing to choose.",
        ),
        name="dynamical_stability",
    )
