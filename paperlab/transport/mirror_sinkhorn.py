r"""Mirror Sinkhorn: a gradient step and half a Sinkhorn sweep, over and over.

To minimise a convex function over transport plans one would take a gradient step and come back to the plans, where
coming back is itself a run of Sinkhorn's algorithm: a loop in a loop. This method takes one loop. It multiplies the
plan by the exponential of a small gradient step and then makes the row sums right, or, next time, the column sums.
Neither step is exact, but the average of all the plans tends to an optimal plan. The strength of a regularisation need
not be chosen beforehand, and the gradients may be noisy, or arrive one after the other.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`a, b`            masses of the two histograms, positive, each sums to 1 (the paper: :math:`\mu, \nu`)
:math:`\gamma_t`        plan after :math:`t - 1` steps, ``(n, m)``; :math:`\bar\gamma_t` the average of the first t
:math:`f`               convex function of a plan; for optimal transport :math:`\langle C, \gamma \rangle`
:math:`B`               bound on the entries of the gradients
:math:`\delta`          :math:`\|\log a\|_\infty + \|\log b\|_\infty`
======================= ========================================================================================

From :math:`\gamma_1 = a b^T`, for :math:`t = 1, 2, \ldots`, with :math:`\eta_t = \frac1B \sqrt{\delta / t}`,

.. math:: \gamma' = \gamma_t \odot e^{-\eta_t \nabla f(\gamma_t)}, \qquad
   \gamma_{t+1} = \gamma'\,\mathrm{diag}(b / \gamma'^T 1) \text{ for odd } t, \quad
   \mathrm{diag}(a / \gamma' 1)\,\gamma' \text{ for even } t .

Guarantee: for convex :math:`f` and gradients bounded by :math:`B`, also in expectation, the value and the row and
column sums of the average are wrong by :math:`O(B \sqrt{\delta / T})` after T steps, up to logarithms (the sums:
without B). ``round_to_polytope`` then makes all sums right and changes the value by no more than the same order.

Not reproduced: the paper's runs on real data, and plans between more than two histograms. The constants of the
theorem are not checked; the paper's full text was not available.

Reference: Ballu, Berthet: Mirror Sinkhorn: Fast Online Optimization on Transport Polytopes, ICML 2023, arXiv
2211.10420.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from paperlab.arguments import cost_matrix, finite_array, histogram, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.exact_transport import exact_plan
from paperlab.tools.rounding import round_to_polytope
from paperlab.tools.sinkhorn import log_sum_exp, marginal_violation

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

# Which sums are made right after each gradient step, one tuple a step, then from the beginning: the paper's schedule.
SINGLE_LOOP = (("columns",), ("rows",))


@dataclass(frozen=True, eq=False)
class Path:
    """Plans on the way: ``average[k]`` and ``last[k]`` are the average plan and the plan after ``steps[k]`` steps."""

    steps: Int[np.ndarray, " k"]
    average: Float[np.ndarray, "k n m"]
    last: Float[np.ndarray, "k n m"]


def step_sizes(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], n_steps: int, bound: float):
    """The step lengths ``eta_1, ..., eta_T`` of the paper, ``(n_steps,)``."""
    # eta_t = sqrt(delta / t) / B,  delta = ||log a||_inf + ||log b||_inf
    delta = np.abs(np.log(a)).max() + np.abs(np.log(b)).max()
    return np.sqrt(delta / np.arange(1, n_steps + 1)) / bound


def rescale(L: Float[np.ndarray, "n m"], a, b, side: str) -> Float[np.ndarray, "n m"]:
    """The logarithm of a plan with its ``"rows"``, or its ``"columns"``, multiplied so that their sums are right."""
    if side == "rows":
        # log (diag(a / gamma 1) gamma)
        return L + (np.log(a) - log_sum_exp(L, axis=1))[:, None]
    # log (gamma diag(b / gamma^T 1))
    return L + (np.log(b) - log_sum_exp(L, axis=0))[None, :]


def mirror_sinkhorn(
    gradient: Callable[[Float[np.ndarray, "n m"]], Float[np.ndarray, "n m"]],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    n_steps: int,
    bound: float,
    *,
    record: Sequence[int] = (),
    step: float = 1.0,
    schedule: tuple[tuple[str, ...], ...] = SINGLE_LOOP,
) -> Path:
    """Minimise a convex function over the plans from ``a`` to ``b``, by its gradients.

    ``gradient``: from a plan to a gradient, or to a random matrix with that mean; called once a step. ``bound``: B,
    at least the largest absolute entry of a gradient. ``record``: after which steps plans are kept; the last step
    always is. ``step``: factor on all step lengths. ``schedule``: the sums, ``"rows"`` or ``"columns"``, that are made
    right after each step; other than ``SINGLE_LOOP`` only for comparison.
    The recorded plans have all mass 1 but only nearly the right sums: see ``round_to_polytope``.
    Raises ``ValueError`` for bad masses, counts or sides, and a gradient of another shape or that is not finite.
    """
    a, b = finite_array("a", a, ndim=1), finite_array("b", b, ndim=1)
    a, b = histogram("a", a, len(a)), histogram("b", b, len(b))
    whole_number("n_steps", n_steps, 1)
    kept = sorted({*(whole_number("record", t, 1, n_steps) for t in record), n_steps})
    if not schedule or {side for sides in schedule for side in sides} - {"rows", "columns"}:
        raise ValueError(f"schedule={schedule} must be tuples of 'rows' and 'columns'")
    eta = positive("step", step) * step_sizes(a, b, n_steps, positive("bound", bound))

    # Logarithms, so that small entries do not become 0
    L = np.log(a)[:, None] + np.log(b)[None, :]
    plan, averages, lasts = np.exp(L), [], []
    average = plan.copy()
    for t in range(1, n_steps + 1):
        # gamma' = gamma_t . exp(-eta_t grad f(gamma_t))
        L = L - eta[t - 1] * cost_matrix("gradient", gradient(plan), L.shape)
        # t odd:  gamma_{t+1} = gamma' diag(b / gamma'^T 1)
        # t even: gamma_{t+1} = diag(a / gamma' 1) gamma'
        for side in schedule[(t - 1) % len(schedule)]:
            L = rescale(L, a, b, side)
        plan = np.exp(L)
        # mean_{t+1} = (t mean_t + gamma_{t+1}) / (t + 1)
        average += (plan - average) / (t + 1)
        if t == kept[len(lasts)]:
            averages.append(average.copy())
            lasts.append(plan)
    return Path(np.array(kept), np.array(averages), np.array(lasts))


def noisy_costs(C: Float[np.ndarray, "n m"], noise: float, rng: np.random.Generator) -> Callable:
    """The gradient of ``<C, gamma>`` with fresh noise, uniform from ``-noise`` to ``noise``, in each entry and call."""
    return lambda plan: C + rng.uniform(-noise, noise, size=C.shape)


def graph_mismatch(plan, S: Float[np.ndarray, "n n"], R: Float[np.ndarray, "n n"]) -> float:
    """How badly a plan carries the graph ``S`` to the graph ``R``: ``||S gamma - gamma R||_F^2 / 2``."""
    return float(((S @ plan - plan @ R) ** 2).sum() / 2)


def graph_gradient(S: Float[np.ndarray, "n n"], R: Float[np.ndarray, "n n"]) -> Callable:
    """The gradient of ``graph_mismatch`` for symmetric weights: ``S (S gamma - gamma R) - (S gamma - gamma R) R``."""

    def gradient(plan):
        difference = S @ plan - plan @ R
        return S @ difference - difference @ R

    return gradient


def fixed_sinkhorn(C, a, b, epsilon: float, record: Sequence[int]) -> Float[np.ndarray, "k n m"]:
    """The baseline: Sinkhorn's algorithm with one regularisation, the plans after ``record`` half sweeps."""
    L, plans = -C / positive("epsilon", epsilon), []
    for t in range(1, max(record) + 1):
        L = rescale(L, a, b, "columns" if t % 2 else "rows")
        if t in record:
            plans.append(np.exp(L))
    return np.array(plans)


POINTS, NODES, PAIRS, NOISE = 64, 30, 6, 2.0
# All scalings of rows or columns are counted. The nested loop comes back to the plans after each step by 20 of them.
SCALINGS, INNER = (20, 60, 100, 200, 300, 600, 1000, 2000, 3000), 20
NESTED = (("columns", "rows") * (INNER // 2),)
# Fixed regularisations, in units of the largest cost: one that is common, and one that suits 3000 scalings.
EPSILONS = (0.01, 0.003)


def gaps(plans: Float[np.ndarray, "k n m"], C, a, least: float) -> Float[np.ndarray, " k"]:
    """By how much the costs of the plans, rounded to the polytope of equal masses ``a``, exceed the least cost."""
    return np.array([(round_to_polytope(plan, a, a) * C).sum() - least for plan in plans])


def points_in_a_square(n: int, rng: np.random.Generator) -> Float[np.ndarray, "n n"]:
    """Squared distances of two clouds of ``n`` points in the unit square, divided by the largest."""
    C = cdist(*rng.uniform(size=(2, n, 2)), "sqeuclidean")
    return C / C.max()


def two_graphs(n: int, flipped: float, rng: np.random.Generator):
    """A random graph, a copy with its nodes in another order and a share ``flipped`` of its pairs flipped.

    The weights ``(n, n)`` are 1/2 for an edge and -1/2 for no edge.
    """
    S = np.triu(rng.choice([-0.5, 0.5], size=(n, n)), 1)
    R = np.where(rng.uniform(size=(n, n)) < flipped, -S, S)
    order = rng.permutation(n)
    return S + S.T, (R + R.T)[np.ix_(order, order)]


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was measured, by arm.

    ``gap``: cost of the rounded plans above the least, in units of the largest cost, after ``SCALINGS`` scalings.
    ``violation``: of the marginals, by the plan after the last of them, not rounded.
    ``mismatch``: of graphs after 1000 scalings, as a share of that of the plan of equal entries, mean of 6 pairs.
    """

    gap: dict[str, Float[np.ndarray, " k"]]
    violation: dict[str, float]
    mismatch: dict[str, float]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Two clouds of 64 points with exact and with noisy costs, and 6 pairs of graphs of 30 nodes."""
    points, noise, graphs = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    C, a = points_in_a_square(POINTS, points), np.full(POINTS, 1 / POINTS)
    least, scalings = (exact_plan(C, a, a) * C).sum(), np.array(SCALINGS)
    noisy = noisy_costs(C, NOISE, noise)

    def run(gradient, bound, schedule):
        record = scalings // len(schedule[0])
        return mirror_sinkhorn(gradient, a, a, record[-1], bound, record=record, schedule=schedule)

    paths = {
        "Mirror Sinkhorn": run(lambda plan: C, 1, SINGLE_LOOP),
        "rows only": run(lambda plan: C, 1, (("rows",),)),
        "Mirror Sinkhorn, noisy costs": run(noisy, 1 + NOISE, SINGLE_LOOP),
        "nested loops, noisy costs": run(noisy, 1 + NOISE, NESTED),
    }
    plans = {name: path.average for name, path in paths.items()}
    plans |= {f"Sinkhorn, ε = {epsilon:g}": fixed_sinkhorn(C, a, a, epsilon, SCALINGS) for epsilon in EPSILONS}
    plans["last plan, noisy costs"] = paths["Mirror Sinkhorn, noisy costs"].last
    u, mismatch = np.full(NODES, 1 / NODES), {"single loop": [], "nested": []}
    for _ in range(PAIRS):
        S, R = two_graphs(NODES, 0.02, graphs)
        for name, schedule in zip(mismatch, (SINGLE_LOOP, NESTED), strict=True):
            # B = 1: by Cauchy and Schwarz S S gamma, R R gamma and S gamma R have entries of at most 1/4
            path = mirror_sinkhorn(graph_gradient(S, R), u, u, 1000 // len(schedule[0]), 1, schedule=schedule)
            left = graph_mismatch(round_to_polytope(path.average[-1], u, u), S, R)
            mismatch[name].append(left / graph_mismatch(np.outer(u, u), S, R))
    return Experiment(
        gap={name: gaps(kept, C, a, least) for name, kept in plans.items()},
        violation={name: marginal_violation(kept[-1], a, a) for name, kept in plans.items()},
        mismatch={name: float(np.mean(shares)) for name, shares in mismatch.items()},
    )


def order_of_convergence(values: Float[np.ndarray, " k"]) -> float:
    """The exponent p of ``T^-p`` between the 300th and the 3000th scaling."""
    first = SCALINGS.index(300)
    return float(np.log(values[first] / values[-1]) / np.log(SCALINGS[-1] / SCALINGS[first]))


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    last = {name: float(values[-1]) for name, values in result.gap.items()}
    order = {name: order_of_convergence(values) for name, values in result.gap.items()}
    nested = f"{INNER} scalings after each step"
    return (
        Claim(
            id="no_floor",
            statement="The gap to the least cost falls on and on, about as fast as 1 / sqrt(T)",
            source="abstract and theorem for optimal transport: no regularisation fixed in advance",
            quantity="exponent p of T^-p, from 300 to 3000 scalings",
            unit="",
            measured=order["Mirror Sinkhorn"],
            relation=">=",
            bound=0.3,
            control=Control("Sinkhorn, regularisation 0.01", order["Sinkhorn, ε = 0.01"], "baseline"),
        ),
        Claim(
            id="single_loop",
            statement="With noisy costs one scaling a step is better than coming all the way back to the plans",
            source="single loop; stochastic gradients",
            quantity="gap after 3000 scalings, in units of the largest cost",
            unit="",
            measured=last["Mirror Sinkhorn, noisy costs"],
            relation="<=",
            bound=0.04,
            control=Control(nested, last["nested loops, noisy costs"], "baseline"),
            scale="log",
        ),
        Claim(
            id="sums",
            statement="One scaling a step keeps rows and columns right, if it takes turns",
            source="theorem: constraint violation of the average",
            quantity="marginal violation of the average plan after 3000 scalings",
            unit="",
            measured=result.violation["Mirror Sinkhorn"],
            relation="<=",
            bound=0.05,
            control=Control("rows after every step", result.violation["rows only"], "broken"),
            scale="log",
        ),
        Claim(
            id="any_objective",
            statement="Another convex objective needs only its gradient, and again one loop beats two: matching graphs",
            source="general convex objectives on transport polytopes",
            quantity="mismatch left after 1000 scalings, as a share of that at the start, mean of 6 pairs",
            unit="",
            measured=result.mismatch["single loop"],
            relation="<=",
            bound=0.5,
            control=Control(nested, result.mismatch["nested"], "baseline"),
        ),
        Observation(
            "Gap after 3000 scalings: Mirror Sinkhorn, against Sinkhorn with regularisation 0.003",
            last["Mirror Sinkhorn"],
            last["Sinkhorn, ε = 0.003"],
            "With exact costs and a regularisation that fits the number of scalings, Sinkhorn's algorithm is better. "
            "What Mirror Sinkhorn saves is the choice.",
        ),
        Observation(
            "Gap after 3000 scalings with noisy costs: the average plan, against the last plan",
            last["Mirror Sinkhorn, noisy costs"],
            last["last plan, noisy costs"],
            "The theorem is about the average, but here the last plan is better: its logarithm is already an average.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def one_step(plan, G, b, eta):
        moved = plan * np.exp(-eta * G)
        return moved * b / moved.sum(axis=0)

    def uphill(plan, G, b, eta):
        return one_step(plan, -G, b, eta)

    def additive(plan, G, b, eta):
        return (plan - eta * G) * b / (plan - eta * G).sum(axis=0)

    def scaled_first(plan, G, b, eta):
        return plan * b / plan.sum(axis=0) * np.exp(-eta * G)

    def cases(rng):
        sizes = ((2, 2), (3, 4), (6, 5))
        return [(*rng.uniform(size=(2, n, m)) / (n * m), rng.dirichlet(np.full(m, 5.0)), 0.7) for n, m in sizes]

    return (
        Exercise(
            id="one_step",
            task="Write `one_step(plan, G, b, eta)`: one step with the gradient `G`, after which the columns are made "
            "right. Shapes: `plan` and `G` are `(n, m)`, `b` is `(m,)`; return the new plan.",
            solution=one_step,
            cases=cases,
            slips={
                "Uphill: the entries with a large gradient must shrink.": uphill,
                "This is a step of plain gradient descent; the mirror step multiplies.": additive,
                "Scaled before the step: the column sums are wrong again after it.": scaled_first,
            },
        ),
        Exercise(
            id="best_loop",
            task="In the explorer choose noise 3 and 600 scalings, the rest as it is. With how many scalings after "
            "each gradient step is the gap of the average smallest: 1, 4 or 20? Bind the number to `best_loop`.",
            solution=lambda: min(INNER_LOOPS, key=lambda inner: explorer_state(600, inner, 1.0, 3.0)["average"][-1]),
            slips={
                "With 4 there are only 150 gradients, and the noise averages out more slowly.": lambda: 4,
                "With 20 the sums are nearly exact, but only 30 gradients have been used.": lambda: 20,
            },
            difficulty=2,
            minutes=5,
            kind="experiment",
            answer="Every scaling that makes sums more exact is a gradient not taken. The error that remains comes "
            "from too few gradients, not from wrong sums.",
        ),
        Exercise(
            id="same_plan",
            task="The costs are exact, $f = \\langle C, \\gamma \\rangle$. After T steps of total length "
            "$s = \\eta_1 + \\dots + \\eta_T$, which form has the *last* plan? (a) $u_i v_j e^{-s C_{ij}}$, a plan of "
            "Sinkhorn's algorithm with regularisation $1/s$, not yet converged. (b) A vertex of the polytope. "
            '(c) The average of T Sinkhorn plans. Bind `"a"`, `"b"` or `"c"` to `same_plan`.',
            solution=lambda: "a",
            slips={
                "All its entries are positive: a vertex has at most n + m - 1 positive entries.": lambda: "b",
                "Look at the last plan, not at the average; and take logarithms.": lambda: "c",
            },
            difficulty=3,
            kind="think",
            answer="Each step subtracts eta_t C from the logarithm and adds a number to each column or each row. So "
            "the last plan is Sinkhorn's with a regularisation 1/s that falls by itself, like 1 / sqrt(T).",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The gap over the scalings: a floor for a fixed regularisation, none for Mirror Sinkhorn; and the noisy arms."""
    from paperlab.figures.curves import curves

    names = ("Mirror Sinkhorn", "Sinkhorn, ε = 0.01", "Mirror Sinkhorn, noisy costs", "nested loops, noisy costs")
    return curves(
        {name: (SCALINGS, result.gap[name]) for name in names},
        title="No regularisation, no floor; and under noise one loop beats two",
        x_title="scalings of rows or columns",
        y_title="gap / largest cost",
        log_x=True,
        log_y=True,
    )


# Points on a line, so that the exact plan is the diagonal; few, so that the explorer answers at once.
EXPLORER_POINTS, INNER_LOOPS = 24, (1, 4, 20)
EXPLORER_SCALINGS = (20, 60, 100, 200, 400, 600)


def explorer_problem():
    """Costs ``(24, 24)``, the same masses on both sides, and the least cost."""
    x, y = np.sort(np.random.default_rng(0).uniform(size=(2, EXPLORER_POINTS)), axis=1)
    C = (x[:, None] - y[None, :]) ** 2
    return C / C.max(), np.full(EXPLORER_POINTS, 1 / EXPLORER_POINTS), float(np.diag(C).mean() / C.max())


def explorer_state(scalings: int, inner: int, step: float, noise: float, show_average: bool = True) -> dict:
    """Mirror Sinkhorn on the explorer's points, ``inner`` scalings after each step, ``scalings`` in all."""
    C, a, least = explorer_problem()
    schedule = SINGLE_LOOP if inner == 1 else (("columns", "rows") * (inner // 2),)
    record = [count // inner for count in EXPLORER_SCALINGS if count <= scalings]
    gradient = noisy_costs(C, noise, np.random.default_rng(1))
    path = mirror_sinkhorn(gradient, a, a, record[-1], 1 + noise, record=record, step=step, schedule=schedule)
    plan = (path.average if show_average else path.last)[-1]
    average, last = (gaps(plans, C, a, least) for plans in (path.average, path.last))
    return {"average": average, "last": last, "plan": plan, "violation": marginal_violation(plan, a, a),
            "steps": path.steps, "scalings": inner * path.steps}  # fmt: skip


def explorer() -> Explorer:
    """The gap over the scalings and the plan at the end, under noise, and for loops within loops."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, line, panels
    from paperlab.widgets import Choice, Explorer, Toggle

    def prepare() -> Float[np.ndarray, " k"]:
        C, a, least = explorer_problem()
        return gaps(fixed_sinkhorn(C, a, a, 0.03, EXPLORER_SCALINGS), C, a, least)

    def compute(context, **values) -> dict:
        return {**explorer_state(**values), "fixed": context}

    def draw(state) -> go.Figure:
        curves = [
            line("average plan", state["scalings"], state["average"], theme.BLUE, mode="lines+markers"),
            line("last plan", state["scalings"], state["last"], theme.GREEN, dash="dot", mode="lines+markers"),
            line("Sinkhorn, ε = 0.03, no noise", EXPLORER_SCALINGS, state["fixed"], theme.VERMILION, dash="dash"),
        ]
        logs = np.log10(np.maximum(state["plan"], 1e-6))
        return panels(
            Panel("gap after rounding", curves, "scalings of rows or columns", "gap / largest cost",
                  {"type": "log", "range": [1.2, 2.85]}, {"type": "log", "range": [-3.5, 0]}),
            Panel("the plan at the end", [heat_map(logs, title="log10 mass", zmin=-6, zmax=-1.4)],
                  "column of the plan", "row of the plan", {}, {"autorange": "reversed"}),
            widths=(0.55, 0.45),
        )  # fmt: skip

    def describe(values, state) -> str:
        which = "average" if values["show_average"] else "last plan"
        return (
            f"{state['steps'][-1]} gradients and {state['scalings'][-1]} scalings: the average is "
            f"{state['average'][-1]:.4f} of the largest cost above the least, the last plan {state['last'][-1]:.4f}; "
            f"Sinkhorn with ε = 0.03 ends at {state['fixed'][-1]:.4f}. In the {which} shown, {state['violation']:.1e} "
            "of the mass is at a wrong place."
        )

    return Explorer(
        controls=(
            Choice("scalings", "scalings in all", EXPLORER_SCALINGS, default=600),
            Choice("inner", "scalings after each step", INNER_LOOPS, default=1),
            Choice("step", "factor on the step length", (0.1, 0.3, 1.0, 3.0, 10.0), default=1.0),
            Choice("noise", "noise, in largest costs", (0.0, 1.0, 3.0), default=0.0, names={0.0: "none"}),
            Toggle("show_average", "show average, not last plan", default=True),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Look at the dashed line, a fixed regularisation: it has a floor. The two others go on falling.",
            "Set the noise to 3, then the scalings after each step to 20: fewer gradients, a larger gap.",
            "Make the steps 10 times as long: more mass is at a wrong place, and the gap grows after rounding.",
            "Look at the last plan instead of the average: it is sharper.",
        ),
        name="mirror_sinkhorn",
    )
