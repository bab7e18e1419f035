r"""Optimal transport with at most k entries in each column of the plan.

Transport regularised by the squared norm of the plan has sparse plans, but says nothing about how sparse. Here each
column may have at most k entries that are not 0: each expert takes at most k tokens, each target at most k sources.
That is a hard combinatorial problem. But its dual is not: it needs the k largest entries of each column, and a
projection onto the simplex. One end, k = 1, is unregularised transport; the other, no limit, is the usual quadratic
regularisation. Small k is sparser, large k is smoother and quickly solved.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`C`               cost, ``(m, n)``; column j is :math:`c_j`
:math:`a, b`            masses of the rows and the columns, positive, each sums to 1
:math:`P`               plan, ``(m, n)``; column j is :math:`p_j`
:math:`k, \gamma`       most entries in a column; strength of the regularisation, in units of the costs
:math:`\alpha, \beta`   potentials, ``(m,)`` and ``(n,)``
======================= ========================================================================================

Sought is the plan of least :math:`\langle C, P \rangle + \sum_j \Omega(p_j)`, where
:math:`\Omega(p) = \frac\gamma2 \|p\|^2` if p has at most k entries, and :math:`\infty` otherwise. Maximised is either

.. math:: \text{the semi-dual } \alpha^T a - \sum_j \Omega^*_{b_j}(\alpha - c_j), \quad
   \text{or the dual } \alpha^T a + \beta^T b - \sum_j \Omega^*_+(\alpha + \beta_j 1 - c_j) .

:math:`\Omega^*_b(s)` is the maximum of :math:`\langle s, p \rangle - \Omega(p)` over non-negative p of sum b, and
:math:`\Omega^*_+(s)` that over all non-negative p. The maximiser takes the k largest entries of s, divides them by
:math:`\gamma` and projects them onto the simplex of mass b, or cuts them off at 0. These maximisers are the columns
of the plan.

Guarantee: dual and semi-dual are concave, and their maximum is a lower bound of the sought value. Where no column has
a tie at its k-th largest entry, the gradient exists, and a maximum has a plan with the right sums, which is then
optimal. At a tie it may not have: columns are right in the semi-dual, but rows need not be.

Not reproduced: the paper's sparse mixture of experts, vision transformers trained with this routing; GPUs and speed.

Reference: Liu, Puigcerver, Blondel: Sparsity-Constrained Optimal Transport, ICLR 2023, arXiv 2209.15466.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from paperlab.arguments import cost_matrix, histogram, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.exact_transport import exact_plan
from paperlab.tools.simplex import largest, project_to_sparse_simplex
from paperlab.tools.sinkhorn import marginal_violation

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

FORMULATIONS = ("semi-dual", "dual")


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """The plan, the value of the dual that was maximised, and the evaluations it took.

    ``stopped``: whether the limit on evaluations ended it. The sums of the plan show how near the optimum is.
    """

    plan: Float[np.ndarray, "m n"]
    value: float
    evaluations: int
    stopped: bool


def best_columns(
    S: Float[np.ndarray, "m n"], k: int, gamma: float, b: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "m n"]:
    """The columns p that maximise ``<s_j, p> - gamma / 2 ||p||^2`` with at most ``k`` entries, none negative.

    With ``b``: among those of sums ``b``, as the semi-dual asks; without: of any sum, as the dual asks.
    """
    scaled = S.T / gamma
    if b is not None:
        # p = projection of the k largest s / gamma onto {p >= 0, sum p = b_j}
        return project_to_sparse_simplex(scaled, k, b).T
    # p = max(s, 0) / gamma at the k largest s, which are chosen with their signs
    kept, P = largest(scaled, k), np.zeros_like(scaled)
    np.put_along_axis(P, kept, np.maximum(np.take_along_axis(scaled, kept, axis=1), 0), axis=1)
    return P.T


def conjugates(S: Float[np.ndarray, "m n"], P: Float[np.ndarray, "m n"], gamma: float) -> float:
    """The sum of all columns' conjugates, ``sum_j <s_j, p_j> - gamma / 2 ||p_j||^2`` at the maximisers ``P``."""
    return float((S * P).sum() - gamma / 2 * (P**2).sum())


def semi_dual(alpha: Float[np.ndarray, " m"], C, a, b, k: int, gamma: float):
    """The semi-dual value at ``alpha``, a (super)gradient ``(m,)`` and the plan."""
    S = alpha[:, None] - C
    P = best_columns(S, k, gamma, b)
    # alpha^T a - sum_j Omega*_{b_j}(alpha - c_j), with gradient a - P 1
    return alpha @ a - conjugates(S, P, gamma), a - P.sum(axis=1), P


def dual(potentials: Float[np.ndarray, " m+n"], C, a, b, k: int, gamma: float):
    """The dual value at ``(alpha, beta)``, a (super)gradient ``(m + n,)`` and the plan."""
    alpha, beta = potentials[: len(a)], potentials[len(a) :]
    S = alpha[:, None] + beta[None, :] - C
    P = best_columns(S, k, gamma)
    # alpha^T a + beta^T b - sum_j Omega*_+(alpha + beta_j 1 - c_j)
    # with gradient (a - P 1, b - P^T 1)
    gradient = np.concatenate([a - P.sum(axis=1), b - P.sum(axis=0)])
    return alpha @ a + beta @ b - conjugates(S, P, gamma), gradient, P


def sparsity_constrained_ot(
    C: Float[np.ndarray, "m n"],
    a: Float[np.ndarray, " m"],
    b: Float[np.ndarray, " n"],
    k: int,
    gamma: float = 1.0,
    *,
    formulation: str = "semi-dual",
    tol: float = 1e-9,
    max_evaluations: int = 5000,
) -> SparsePlan:
    """The plan whose columns have at most ``k`` entries, by L-BFGS on the ``"semi-dual"`` or the ``"dual"``.

    ``gamma``: strength of the regularisation, in units of ``C``. ``k = m``: quadratic regularisation without a limit.
    Stops when no entry of the gradient, an error of a row or column sum, exceeds ``tol``; when no step of the line
    search rises, as happens at ties; or after ``max_evaluations``. In the semi-dual column sums are always right.
    Raises ``ValueError`` for bad costs or masses, ``k`` outside 1 to m, ``gamma`` or ``tol`` not positive, or an
    unknown formulation.
    """
    C = cost_matrix("C", C)
    a, b = histogram("a", a, C.shape[0]), histogram("b", b, C.shape[1])
    k, gamma, tol = whole_number("k", k, 1, len(a)), positive("gamma", gamma), positive("tol", tol)
    whole_number("max_evaluations", max_evaluations, 1)
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation={formulation!r} must be 'semi-dual' or 'dual'")
    function, size = (semi_dual, len(a)) if formulation == "semi-dual" else (dual, len(a) + len(b))

    def negative(potentials):
        value, gradient, _ = function(potentials, C, a, b, k, gamma)
        return -value, -gradient

    options = {"ftol": 1e-15, "gtol": tol, "maxfun": max_evaluations, "maxiter": max_evaluations}
    found = minimize(negative, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
    value, _, P = function(found.x, C, a, b, k, gamma)
    return SparsePlan(P, float(value), found.nfev, found.nfev >= max_evaluations)


def entries_per_column(P: Float[np.ndarray, "m n"]):
    """How many entries of each column are more than rounding, ``(n,)``."""
    return (P > 1e-9).sum(axis=0)


def points_in_a_square(n: int, rng: np.random.Generator):
    """Squared distances ``(n, n)`` of random points in the unit square, and the same mass for each."""
    return cdist(*rng.uniform(size=(2, n, 2)), "sqeuclidean"), np.full(n, 1 / n), np.full(n, 1 / n)


def tokens_to_experts(rng: np.random.Generator, m: int = 40, n: int = 4):
    """Costs ``(m, n)`` from 0 to 1 of giving ``m`` tokens to ``n`` experts, with equal masses on either side.

    The affinity of a token is linear in 8 features, plus a bias that makes the first expert the most popular.
    """
    affinity = rng.normal(size=(m, 8)) @ rng.normal(size=(8, n)) / np.sqrt(8) + np.linspace(1.5, -0.5, n)
    C = affinity.max() - affinity
    return C / C.max(), np.full(m, 1 / m), np.full(n, 1 / n)


def top_1_unserved(C: Float[np.ndarray, "m n"], capacity: int) -> int:
    """Tokens left over when each goes to its favourite expert and an expert takes only its first ``capacity``."""
    return int(np.maximum(np.bincount(C.argmin(axis=1), minlength=C.shape[1]) - capacity, 0).sum())


def unserved(P: Float[np.ndarray, "m n"], a: Float[np.ndarray, " m"]) -> int:
    """Rows that get less than half of their mass."""
    return int((P.sum(axis=1) < a / 2).sum())


POINTS, PROBLEMS, LIMITS = 20, 4, (1, 2, 3, 4, 6, 8, 20)
CAPACITY, STRONG = 12, 10.0


@dataclass(frozen=True, eq=False)
class Experiment:
    """On points, by limit k: values, plan costs above the ``least``, evaluations, sums of the errors of the row sums.

    All on the first of 4 problems, but the evaluations are means over all. ``dual_one``: marginal violation for k = 1
    by formulation. On tokens, by router: ``most``, tokens of the busiest expert; ``unserved``, tokens without an
    expert; ``routing_cost``, the mean cost.
    """

    values: Float[np.ndarray, " limits"]
    above_least: Float[np.ndarray, " limits"]
    evaluations: Float[np.ndarray, " limits"]
    row_errors: Float[np.ndarray, " limits"]
    least: float
    dual_one: dict[str, float]
    most: dict[str, int]
    unserved: dict[str, int]
    routing_cost: dict[str, float]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """4 problems of 20 points on each side with ``gamma`` 1, and 40 tokens for 4 experts with ``gamma`` 10."""
    points, tokens = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    problems = [points_in_a_square(POINTS, points) for _ in range(PROBLEMS)]
    runs = [[sparsity_constrained_ot(*problem, k) for k in LIMITS] for problem in problems]
    (C, a, b), solutions = problems[0], runs[0]
    least = float((exact_plan(C, a, b) * C).sum())
    by_dual = sparsity_constrained_ot(C, a, b, 1, formulation="dual")
    D, c, d = tokens_to_experts(tokens)
    limits = {"at most 12": CAPACITY, "no limit": len(c)}
    plans = {name: sparsity_constrained_ot(D, c, d, k, STRONG).plan for name, k in limits.items()}
    return Experiment(
        values=np.array([solution.value for solution in solutions]),
        above_least=np.array([(solution.plan * C).sum() - least for solution in solutions]),
        evaluations=np.mean([[solution.evaluations for solution in run] for run in runs], axis=0),
        row_errors=np.array([np.abs(solution.plan.sum(axis=1) - a).sum() for solution in solutions]),
        least=least,
        dual_one={
            "semi-dual": marginal_violation(solutions[0].plan, a, b),
            "dual": marginal_violation(by_dual.plan, a, b),
        },
        most={name: int(entries_per_column(P).max()) for name, P in plans.items()},
        unserved={"at most 12": unserved(plans["at most 12"], c), "top-1": top_1_unserved(D, CAPACITY)},
        routing_cost={name: float((P * D).sum()) for name, P in plans.items()},
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    at = {k: index for index, k in enumerate(LIMITS)}
    return (
        Claim(
            id="cardinality",
            statement="No column has more than k entries: no expert takes more tokens than it can",
            source="cardinality constraint; sparse mixture of experts",
            quantity="tokens of the busiest of 4 experts, k = 12",
            unit="tokens",
            measured=result.most["at most 12"],
            relation="<=",
            bound=17,
            control=Control("quadratic regularisation alone, k = 40", result.most["no limit"], "baseline"),
            scale="log",
        ),
        Claim(
            id="unserved",
            statement="Every token finds an expert, though the favourite expert of most is the same",
            source="sparse mixture of experts: balanced routing",
            quantity="tokens, of 40, that get less than half of their mass",
            unit="tokens",
            measured=result.unserved["at most 12"],
            relation="<=",
            bound=5,
            control=Control("each to its favourite, first 12 served", result.unserved["top-1"], "baseline"),
        ),
        Claim(
            id="one_entry",
            statement="With k = 1 the plan is one of unregularised optimal transport",
            source="limit cases of k",
            quantity="cost of the plan above the least cost",
            unit="",
            measured=float(result.above_least[at[1]]),
            relation="<=",
            bound=0.0015,
            control=Control("quadratic regularisation alone, k = 20", float(result.above_least[-1]), "baseline"),
        ),
        Claim(
            id="smoothness",
            statement="A larger k makes the problem smoother and sooner solved",
            source="smoothness of the dual grows with k",
            quantity="evaluations of the semi-dual until L-BFGS stops, k = 8, mean of 4 problems",
            unit="evaluations",
            measured=float(result.evaluations[at[8]]),
            relation="<=",
            bound=110,
            control=Control("k = 2", float(result.evaluations[at[2]]), "ablation"),
            scale="log",
        ),
        Claim(
            id="row_sums",
            statement="Where no column is tied, the plan read off the dual has the right row sums",
            source="primal solution from the dual: unique top-k",
            quantity="sum of the errors of the row sums, k = 8",
            unit="",
            measured=float(result.row_errors[at[8]]),
            relation="<=",
            bound=1e-4,
            control=Control("k = 2, where columns are tied", float(result.row_errors[at[2]]), "assumption violated"),
            scale="log",
        ),
        Observation(
            "Sum of the errors of row and column sums with k = 1: semi-dual against dual",
            result.dual_one["semi-dual"],
            result.dual_one["dual"],
            "Both have the same optimum. But the dual has kinks in more directions, and L-BFGS may stop at one.",
        ),
        Observation(
            "Mean cost of a token: at most 12 an expert, against no limit, in units of the largest cost",
            result.routing_cost["at most 12"],
            result.routing_cost["no limit"],
            "The limit does not make routing worse: a sparser plan is nearer to the unregularised one. No claim, since "
            "row sums are wrong by up to 0.2 there, which changes the cost as well.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def best_column(s, k, gamma):
        return best_columns(s[:, None], k, gamma)[:, 0]

    def absolute(s, k, gamma):
        kept = np.isin(np.arange(len(s)), np.argsort(-np.abs(s))[:k])
        return np.where(kept, np.maximum(s, 0), 0) / gamma

    def no_limit(s, k, gamma):
        return np.maximum(s, 0) / gamma

    def cases(rng):
        fixed = np.array([1.0, -3.0, 0.5, 2.0])
        return [(fixed, 2, 0.5), (fixed, 4, 2.0), (rng.normal(size=7), 6, 2.0), (rng.normal(size=9), 7, 3.0)]

    return (
        Exercise(
            id="best_column",
            task="Write `best_column(s, k, gamma)`: the non-negative `p` with at most `k` entries that are not 0 for "
            r"which $\langle s, p \rangle - \frac\gamma2 \|p\|^2$ is largest, of any sum. `s` and the answer are "
            "`(m,)`.",
            solution=best_column,
            cases=cases,
            slips={
                "You chose the largest absolute values. A very negative entry then takes a place and gives 0.": (
                    absolute
                ),
                "More than k entries are not 0: the limit is missing.": no_limit,
            },
            difficulty=2,
        ),
        Exercise(
            id="smallest_limit",
            task="In the explorer, with γ = 1 and the semi-dual: which is the smallest limit k, above 1, with which "
            "the errors of the row sums add up to less than 0.1 % of the mass? Bind it to `smallest_limit`.",
            solution=lambda: next(k for k in EXPLORER_LIMITS[1:] if explorer_row_error(k) < 1e-3),
            slips={
                "With 2 many columns are tied, and the row sums are wrong by many percent.": lambda: 2,
                "Without a limit the sums are right, but they are with a smaller k as well.": lambda: 16,
            },
            difficulty=2,
            minutes=5,
            kind="experiment",
            answer="The limit is felt, since without it columns have up to 7 entries. But no column is tied, so the "
            "plan of the semi-dual is right and optimal. With 6 there is a tie again, and a small error.",
        ),
        Exercise(
            id="why_tied",
            task="For k = 2 the best potentials make the 2nd and the 3rd largest entry of many columns *equal*. Why is "
            "that no accident? (a) Rounding. (b) Without a tie a small change of the potentials moves no mass between "
            "the two rows, so the row sums cannot be balanced; at a tie, it can go to either. (c) The points are in a "
            'square. Bind `"a"`, `"b"` or `"c"` to `why_tied`.',
            solution=lambda: "b",
            slips={
                "The ties are there in exact arithmetic, too.": lambda: "a",
                "Random points in any space show the same.": lambda: "c",
            },
            difficulty=3,
            minutes=10,
            kind="think",
            answer="The maximum of a concave function with kinks usually sits on kinks. There the right plan is a "
            "mixture of the two choices, which has k + 1 entries; the code returns one of the choices.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The value and the work, from k = 1, which is unregularised transport, to no limit."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels

    limits, ends, unregularised = np.array(LIMITS), [LIMITS[0], LIMITS[-1]], result.least + 1 / (2 * POINTS)
    values = [
        line("optimal value", limits, result.values, theme.BLUE, mode="lines+markers"),
        line("unregularised cost + ½ Σ b²", ends, [unregularised] * 2, theme.VERMILION, dash="dash"),
        line("quadratic regularisation", ends, [result.values[-1]] * 2, theme.GREEN, dash="dot"),
    ]
    work = line("evaluations", limits, result.evaluations, theme.BLUE, mode="lines+markers", showlegend=False)
    ticks = {"type": "log", "tickvals": LIMITS, "ticktext": [str(k) for k in LIMITS]}
    return panels(
        Panel("value", values, "entries allowed in a column, k", "value of the semi-dual", ticks),
        Panel("work", [work], "entries allowed in a column, k", "evaluations until it stops", ticks,
              {"type": "log", "tickvals": [30, 100, 300, 1000]}),
        title="Between exact and quadratic transport: k chooses",
    )  # fmt: skip


EXPLORER_POINTS, EXPLORER_LIMITS = 16, (1, 2, 3, 4, 6, 16)


def explorer_solution(k: int, gamma: float, formulation: str = "semi-dual") -> SparsePlan:
    """The explorer's plan between 16 points on each side, from left to right, stopped after about 200 evaluations."""
    x, y = np.random.default_rng(0).uniform(size=(2, EXPLORER_POINTS, 2))
    C = cdist(x[x[:, 0].argsort()], y[y[:, 0].argsort()], "sqeuclidean")
    a = np.full(EXPLORER_POINTS, 1 / EXPLORER_POINTS)
    return sparsity_constrained_ot(C, a, a, k, gamma, formulation=formulation, tol=1e-7, max_evaluations=200)


def explorer_row_error(k: int) -> float:
    """The sum of the errors of the row sums in the explorer, with gamma 1 and the semi-dual."""
    return float(np.abs(explorer_solution(k, 1.0).plan.sum(axis=1) - 1 / EXPLORER_POINTS).sum())


def explorer() -> Explorer:
    """The plan, and its row and column sums, for each limit and each strength."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, line, panels, points
    from paperlab.widgets import Choice, Explorer

    places = np.arange(EXPLORER_POINTS)

    def compute(context, k: int, gamma: float, formulation: str) -> dict:
        solution = explorer_solution(k, gamma, formulation)
        sums = {"rows": solution.plan.sum(axis=1), "columns": solution.plan.sum(axis=0)}
        return {"solution": solution, "sums": {side: EXPLORER_POINTS * mass for side, mass in sums.items()}}

    def draw(state) -> go.Figure:
        plan = EXPLORER_POINTS * state["solution"].plan
        entries = heat_map(np.where(plan > 1e-9, plan, np.nan), title="share", zmin=0, zmax=1)
        due = line("due", [-0.5, EXPLORER_POINTS - 0.5], [1, 1], theme.GREY, dash="dash")
        sums = [
            points("row sums", places, state["sums"]["rows"], theme.BLUE),
            points("column sums", places, state["sums"]["columns"], theme.VERMILION, symbol="diamond-open"),
        ]
        return panels(
            Panel("the plan; white entries are 0", [entries], "column", "row", {}, {"autorange": "reversed"}),
            Panel("sums, as a share of what is due", [due, *sums], "row or column", "sum / due",
                  {"range": [-0.6, EXPLORER_POINTS - 0.4]}, {"range": [0, 2.1]}),
            gap=0.2,
        )  # fmt: skip

    def describe(values, state) -> str:
        solution = state["solution"]
        counts, errors = entries_per_column(solution.plan), np.abs(state["sums"]["rows"] - 1).mean()
        end = "stopped after" if solution.stopped else "done after"
        return (
            f"Entries of a column: {counts.min()} to {counts.max()}, {counts.sum()} in all. The errors of the row sums "
            f"add up to {100 * errors:.2f} % of the mass. Value {solution.value:.4f}; "
            f"{end} {solution.evaluations} evaluations."
        )

    return Explorer(
        controls=(
            Choice("k", "most entries in a column, k", EXPLORER_LIMITS, default=2),
            Choice("gamma", "regularisation γ", (0.1, 0.3, 1.0, 3.0, 10.0), default=1.0),
            Choice("formulation", "what is maximised", FORMULATIONS, default="semi-dual"),
        ),
        prepare=lambda: None,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Raise k from 2 to 4: the row sums come right, and the evaluations drop.",
            "Set k to 1: a permutation, as in unregularised transport. Now change γ: it stays.",
            "Switch to the dual with k = 2: now column sums are wrong, too.",
            "Without a limit (k = 16) make γ large: columns fill up. With k = 3 they cannot.",
        ),
        name="sparsity_constrained_ot",
    )
