r"""Sinkhorn's algorithm finished by sparse Newton steps.

The entropic transport plan is found by maximising a smooth concave function of two potentials. Sinkhorn's algorithm
does so by turns and gains the same factor each time: slowly, when the regularisation is weak. Newton's method doubles
the right digits with every step but must solve a linear system with the Hessian. Under weak regularisation the plan,
and with it the Hessian, is almost sparse: keeping a few entries a row makes a Newton step cheap, and as good.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`C`               cost, ``(n, m)``
:math:`a, b`            masses of the two histograms, positive, each sums to 1
:math:`\eta`            INVERSE regularisation: :math:`\varepsilon = 1/\eta` elsewhere in this family
:math:`x, y`            the two potentials, ``(n,)`` and ``(m,)``
:math:`P`               plan :math:`P_{ij} = e^{\eta(-C_{ij} + x_i + y_j) - 1}`
======================= ========================================================================================

Maximised is :math:`f(x, y) = -\tfrac1\eta \sum_{ij} P_{ij} + a^T x + b^T y`, with gradient
:math:`(a - P1,\; b - P^T1)` and Hessian :math:`-\eta H`,
:math:`H = \begin{pmatrix}\mathrm{diag}(P1) & P\\ P^T & \mathrm{diag}(P^T1)\end{pmatrix}`.
A Newton step solves :math:`\eta \tilde H \delta = \nabla f`; :math:`\tilde H` keeps the largest entries of :math:`P`
off the diagonal, and the *full* sums on it, which keeps it positive semidefinite.

Guarantee: :math:`f` is concave and the line search never lets it fall, so the method converges for any positive
masses and finite costs; with the full Hessian, in the end quadratically. With a truncated one the last phase is
super-linear only as far as the dropped entries are small.

Not reproduced: sizes of 500 to 1000 points, :math:`\eta = 1200`, image costs, and wall-clock time. The switch after a
fixed number of sweeps and the number of kept entries are ours; the paper's own constants were not available.

Reference: Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying: Accelerating Sinkhorn Algorithm with
Sparse Newton Iterations, ICLR 2024, arXiv 2401.12253.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float
from scipy.sparse.linalg import cg
from scipy.spatial.distance import cdist

from paperlab.arguments import cost_matrix, histogram, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.simplex import share_of_largest
from paperlab.tools.sinkhorn import log_sum_exp, marginal_violation

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


@dataclass(frozen=True, eq=False)
class Solution:
    """What both solvers return. ``history[k]`` is the marginal violation after iteration ``k + 1`` of either kind."""

    plan: Float[np.ndarray, "n m"]
    history: Float[np.ndarray, " iterations"]
    n_sinkhorn: int
    n_newton: int
    n_cg: int


def coupling(C: Float[np.ndarray, "n m"], x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], eta: float):
    """The plan that belongs to two potentials."""
    with np.errstate(over="ignore"):  # a step that is far too long gives inf; the line search rejects it
        # P = exp(eta (-C + x 1^T + 1 y^T) - 1)
        return np.exp(eta * (-C + x[:, None] + y[None, :]) - 1)


def dual_value(P, x, y, a, b, eta: float) -> float:
    """The concave function that both solvers increase."""
    # f(x, y) = -(1 / eta) sum P + a^T x + b^T y
    return float(-P.sum() / eta + a @ x + b @ y)


def sinkhorn_sweep(C, a, b, y, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """One sweep: the best ``x`` for this ``y``, then the best ``y`` for that ``x``; in the log domain."""
    # P 1 = a:    x = (log a + 1 - log sum_j exp(eta (y_j - C_ij))) / eta
    x = (np.log(a) + 1 - log_sum_exp(eta * (y[None, :] - C), axis=1)) / eta
    # P^T 1 = b:  y = (log b + 1 - log sum_i exp(eta (x_i - C_ij))) / eta
    y = (np.log(b) + 1 - log_sum_exp(eta * (x[:, None] - C), axis=0)) / eta
    return x, y


def sparsify(P: Float[np.ndarray, "n m"], n_kept: int) -> sparse.csr_array:
    """The ``n_kept`` largest entries of a plan, as a sparse matrix."""
    kept = np.argpartition(P, P.size - n_kept, axis=None)[P.size - n_kept :]
    rows, columns = np.unravel_index(kept, P.shape)
    return sparse.csr_array((P[rows, columns], (rows, columns)), shape=P.shape)


def sparse_hessian(P: Float[np.ndarray, "n m"], n_kept: int) -> sparse.coo_array:
    """``H`` with the full sums of ``P`` on the diagonal and its ``n_kept`` largest entries off it."""
    kept, sums = sparsify(P, n_kept).tocoo(), np.concatenate([P.sum(axis=1), P.sum(axis=0)])
    i, j, diagonal = kept.row, len(P) + kept.col, np.arange(len(sums))
    # H = [[diag(P 1), P~], [P~^T, diag(P^T 1)]], entry by entry
    places = np.concatenate([diagonal, i, j]), np.concatenate([diagonal, j, i])
    return sparse.coo_array((np.concatenate([sums, kept.data, kept.data]), places), shape=(len(sums), len(sums)))


def newton_direction(P, a, b, eta: float, n_kept: int, cg_tol: float):
    """A Newton step by conjugate gradients: the change of ``(x, y)``, the gradient, and the iterations it took."""
    gradient = np.concatenate([a - P.sum(axis=1), b - P.sum(axis=0)])
    H, steps = sparse_hessian(P, n_kept), []
    # Scaled to a unit diagonal, as Jacobi's preconditioner does: S H S with S = diag(s)
    s = H.diagonal() ** -0.5
    scaled = sparse.csr_array((eta * s[H.row] * H.data * s[H.col], H.coords), shape=H.shape)
    # eta S H S u = S grad f, delta = S u; f is flat along (1, -1), and the gradient is 0 there: start from 0
    u, _ = cg(scaled, s * gradient, rtol=cg_tol, maxiter=2000, callback=steps.append)
    return s * u, gradient, len(steps)


def line_search(C, a, b, x, y, P, delta, gradient, eta: float):
    """Halve the Newton step until ``f`` grows enough (Armijo); ``None`` if no step does, at the limit of rounding."""
    f, slope = dual_value(P, x, y, a, b, eta), gradient @ delta
    rounding = 1e-15 * (np.abs(a * x).sum() + np.abs(b * y).sum() + P.sum() / eta)
    for alpha in 0.5 ** np.arange(100):
        x_new, y_new = x + alpha * delta[: len(x)], y + alpha * delta[len(x) :]
        P_new = coupling(C, x_new, y_new, eta)
        f_new = dual_value(P_new, x_new, y_new, a, b, eta)
        # f(z + alpha delta) >= f(z) + 1e-4 alpha grad f^T delta
        if f_new >= f + 1e-4 * alpha * slope - rounding:
            return x_new, y_new, P_new
    return None


def sinkhorn(C, a, b, eta: float, max_sweeps: int = 1000, tol: float = 1e-10) -> Solution:
    """The baseline: Sinkhorn's algorithm alone. Arguments and errors as in ``sinkhorn_newton_sparse``."""
    return sinkhorn_newton_sparse(C, a, b, eta, max_sweeps, max_newton=0, kept_per_row=1, tol=tol)


def sinkhorn_newton_sparse(
    C: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    eta: float,
    n_sinkhorn: int = 20,
    max_newton: int = 30,
    kept_per_row: int = 15,
    tol: float = 1e-10,
    cg_tol: float = 1e-8,
) -> Solution:
    """The entropic plan by ``n_sinkhorn`` Sinkhorn sweeps, then at most ``max_newton`` sparse Newton steps.

    ``eta``: inverse regularisation, in inverse units of ``C``. ``kept_per_row``: ``n * kept_per_row`` entries of the
    plan stay in the Hessian. Stops when the marginal violation (l1, both sides) is below ``tol``. ``cg_tol``: relative
    residual of the linear systems. The result's ``history`` shows whether ``tol`` was reached.
    Raises ``ValueError`` for bad costs or masses, ``eta``, ``tol`` or ``cg_tol`` not positive, or counts out of range.
    """
    C = cost_matrix("C", C)
    a, b = histogram("a", a, C.shape[0]), histogram("b", b, C.shape[1])
    eta, tol, cg_tol = positive("eta", eta), positive("tol", tol), positive("cg_tol", cg_tol)
    whole_number("n_sinkhorn", n_sinkhorn, 1)
    whole_number("max_newton", max_newton, 0)
    n_kept = len(a) * whole_number("kept_per_row", kept_per_row, 1, len(b))

    y, history, n_newton, n_cg = np.zeros(len(b)), [np.inf], 0, 0
    while len(history) <= n_sinkhorn and history[-1] >= tol:
        x, y = sinkhorn_sweep(C, a, b, y, eta)
        P = coupling(C, x, y, eta)
        history.append(marginal_violation(P, a, b))
    while n_newton < max_newton and history[-1] >= tol:
        delta, gradient, cg_steps = newton_direction(P, a, b, eta, n_kept, cg_tol)
        step = line_search(C, a, b, x, y, P, delta, gradient, eta)
        if step is None:
            break
        x, y, P = step
        n_newton, n_cg = n_newton + 1, n_cg + cg_steps
        history.append(marginal_violation(P, a, b))
    return Solution(P, np.array(history[1:]), len(history) - 1 - n_newton, n_newton, n_cg)


# Costs that are independent numbers, or squared distances between points: sweeps before the switch, entries kept a row.
SETTINGS = {"random costs": (20, 15), "points in a square": (50, 30)}
POINTS, ETA, CAP = 100, 300.0, 1000


def problem(name: str, n: int, rng: np.random.Generator):
    """Costs ``(n, n)`` from 0 to 1 of ``"random costs"`` or ``"points in a square"``, and two uniform histograms."""
    if name not in SETTINGS:
        raise ValueError(f"name={name!r} must be one of {', '.join(map(repr, SETTINGS))}")
    C = rng.uniform(size=(n, n))
    if name == "points in a square":
        x, y = rng.uniform(size=(2, n, 2))
        # From left to right, so that the plan has a visible band along its diagonal.
        C = cdist(x[x[:, 0].argsort()], y[y[:, 0].argsort()], "sqeuclidean")
    return C / C.max(), np.full(n, 1 / n), np.full(n, 1 / n)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Solutions of both problems, by name: the method's, and those of the arms it is compared with."""

    newton: dict[str, Solution]
    sinkhorn: dict[str, Solution]
    two_kept: dict[str, Solution]
    one_sweep: dict[str, Solution]
    strong: dict[str, Solution]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Both problems with 100 points a side, uniform masses, ``eta = 300``, to a violation below 1e-10."""
    arms = {name: {} for name in Experiment.__dataclass_fields__}
    for (name, (sweeps, kept)), child in zip(SETTINGS.items(), np.random.SeedSequence(seed).spawn(2), strict=True):
        data = problem(name, POINTS, np.random.default_rng(child))
        arms["newton"][name] = sinkhorn_newton_sparse(*data, ETA, sweeps, 40, kept)
        arms["sinkhorn"][name] = sinkhorn(*data, ETA, CAP)
        arms["two_kept"][name] = sinkhorn_newton_sparse(*data, ETA, sweeps, 40, 2)
        arms["one_sweep"][name] = sinkhorn_newton_sparse(*data, ETA, 1, 40, kept)
        arms["strong"][name] = sinkhorn(*data, ETA / 100, CAP)
    return Experiment(**arms)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    rows = []
    for name, (sweeps, kept) in SETTINGS.items():
        key, newton, alone = name.split()[0], result.newton[name], result.sinkhorn[name]
        capped = f"Sinkhorn alone, stopped at {CAP}" if len(alone.history) == CAP else "Sinkhorn alone"
        strong = share_of_largest(result.strong[name].plan, 0.1)
        rows += [
            Claim(
                id=f"iterations_{key}",
                statement=f"Few iterations, sweeps and Newton steps together, reach full accuracy ({name})",
                source="abstract and experiments: orders of magnitude fewer iterations",
                quantity="iterations until the marginal violation is below 1e-10",
                unit="iterations",
                measured=len(newton.history),
                relation="<=",
                bound=150,
                control=Control(capped, len(alone.history), "baseline"),
                scale="log",
            ),
            Claim(
                id=f"best_step_{key}",
                statement=f"A Newton step gains digits, not a constant factor ({name})",
                source="convergence plots: super-linear last phase",
                quantity="share of the violation that the best single iteration leaves",
                unit="",
                measured=float(np.min(newton.history[1:] / newton.history[:-1])),
                relation="<=",
                bound=0.05,
                control=Control(capped, float(np.min(alone.history[1:] / alone.history[:-1])), "baseline"),
                scale="log",
            ),
            Claim(
                id=f"sparse_plan_{key}",
                statement=f"Weakly regularised, a tenth of the plan carries nearly all mass ({name})",
                source="approximate sparsity of the Hessian",
                quantity="share of the mass on the largest 10 % of the entries",
                unit="",
                measured=share_of_largest(newton.plan, 0.1),
                relation=">=",
                bound=0.8,
                control=Control(f"the plan at eta = {ETA / 100:g}, not {ETA:g}", strong, "assumption violated"),
            ),
            Claim(
                id=f"enough_kept_{key}",
                statement=f"The kept entries must carry the mass, or Newton's method is slow again ({name})",
                source="truncation of the Hessian to O(n) entries",
                quantity="Newton steps until the marginal violation is below 1e-10",
                unit="steps",
                measured=newton.n_newton,
                relation="<=",
                bound=20,
                control=Control(f"2 entries a row, not {kept}; at most 40", result.two_kept[name].n_newton, "ablation"),
                scale="log",
            ),
            Observation(
                f"Newton steps after {sweeps} Sinkhorn sweeps, against after one sweep ({name})",
                newton.n_newton,
                result.one_sweep[name].n_newton,
                "The sweeps before the switch save a few Newton steps. At this size they are no necessity.",
            ),
            Observation(
                f"Entries touched, in multiples of n²: sparse Newton, all included, against Sinkhorn alone ({name})",
                2 * newton.n_sinkhorn + 3 * newton.n_newton + 2 * newton.n_cg * kept / POINTS,
                2 * len(alone.history),
                "A Newton step costs more than a sweep: counted in arithmetic the gain is smaller than in iterations.",
            ),
        ]
    return tuple(rows)


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def row_update(C, a, y, eta):
        return (np.log(a) + 1 - log_sum_exp(eta * (y[None, :] - C), axis=1)) / eta

    def cases(rng):
        sizes = ((2, 2), (3, 4), (6, 5), (8, 8))
        return [(rng.uniform(size=(n, m)), rng.dirichlet(np.full(n, 5.0)), rng.normal(size=m), 5.0) for n, m in sizes]

    return (
        Exercise(
            id="row_update",
            task="Write `row_update(C, a, y, eta)`: the `x` for which the rows of "
            r"$P_{ij} = e^{\eta(-C_{ij} + x_i + y_j) - 1}$ sum to `a`. Shapes: `C` is `(n, m)`, `a` is `(n,)`, `y` is "
            "`(m,)`, the answer is `(n,)`. The numbers here are small, so you may take exponentials as they are.",
            solution=row_update,
            cases=cases,
            slips={
                "The -1 in the exponent is lost: your rows sum to a / e.": lambda C, a, y, eta: (
                    row_update(C, a, y, eta) - 1 / eta
                ),
                "This is eta times x: x stands inside the bracket that eta multiplies.": lambda C, a, y, eta: (
                    eta * row_update(C, a, y, eta)
                ),
                "The cost has the wrong sign: an expensive pair must get little mass.": lambda C, a, y, eta: row_update(
                    -C, a, y, eta
                ),
            },
            difficulty=1,
            minutes=10,
        ),
        Exercise(
            id="fewest_kept",
            task="In the explorer choose points in a square, η = 200 and 50 sweeps before the switch. What is the "
            "smallest number of kept entries a row with which at most 8 Newton steps reach 1e-10? Bind it to "
            "`fewest_kept`.",
            solution=lambda: fewest_kept(max_newton=8),
            slips={
                "With 2 a row the dropped entries carry much of the mass: look at the slope.": lambda: 2,
                "With 5 a row the violation still falls by a constant factor a step.": lambda: 5,
                "All entries are enough, but so are fewer: move the control to the left.": lambda: 40,
            },
            difficulty=2,
            minutes=10,
            kind="experiment",
            answer="It drops a millionth of the mass. With 5 entries a row half a percent is dropped: then the "
            "truncated Hessian is a wrong curvature, and the error falls by a constant factor, about 4, a step.",
        ),
        Exercise(
            id="full_sums",
            task="Off the diagonal the Hessian keeps few entries of $P$; on it stand the *full* row and column sums. "
            "Why? (a) It saves memory. (b) No eigenvalue becomes negative, so that a Newton step leads uphill. "
            '(c) The gradient would change otherwise. Bind `"a"`, `"b"` or `"c"` to `full_sums`.',
            solution=lambda: "b",
            slips={
                "No memory is saved: the diagonal has n + m numbers either way.": lambda: "a",
                "The gradient comes from the full plan in either case. Think of eigenvalues.": lambda: "c",
            },
            difficulty=3,
            minutes=5,
            kind="think",
            answer="Each diagonal entry is at least the sum of the others in its row, so no eigenvalue is negative. "
            "With sums of the kept entries only, the matrix is singular once more for every group of points that the "
            "kept entries do not connect, and steps explode along these directions.",
        ),
    )


def fewest_kept(max_newton: int) -> int:
    """The fewest kept entries a row of the explorer with which ``max_newton`` Newton steps are enough."""
    data = problem("points in a square", EXPLORER_POINTS, np.random.default_rng(0))
    return next(k for k in KEPT if sinkhorn_newton_sparse(*data, 200.0, 50, max_newton, k).history[-1] < 1e-10)


def figure(result: Experiment) -> go.Figure:
    """The violation after each iteration: the slope of Sinkhorn's algorithm, the elbow of the sparse Newton steps."""
    from paperlab.figures.curves import curves

    series = {}
    for name in SETTINGS:
        for label, solution in (("sparse Newton", result.newton[name]), ("Sinkhorn alone", result.sinkhorn[name])):
            series[f"{label}, {name}"] = (1 + np.arange(len(solution.history)), solution.history)
    return curves(
        series,
        title="Sinkhorn's algorithm crawls, a few sparse Newton steps finish",
        x_title="iterations (sweeps and Newton steps)",
        y_title="marginal violation",
        log_x=True,
        log_y=True,
    )


# Smaller than the experiment, and Sinkhorn alone stopped early, so that the explorer answers at once.
EXPLORER_POINTS, EXPLORER_CAP = 40, 300
ETAS, KEPT = (50.0, 100.0, 200.0, 300.0), (2, 5, 10, 20, 40)


def explorer() -> Explorer:
    """Both solvers on one problem: where the elbow is, and which entries of the plan the Hessian keeps."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, line, panels
    from paperlab.widgets import Choice, Explorer

    def prepare() -> dict:
        data = {name: problem(name, EXPLORER_POINTS, np.random.default_rng(0)) for name in SETTINGS}
        return {
            (name, eta): (data[name], sinkhorn(*data[name], eta, EXPLORER_CAP)) for name in SETTINGS for eta in ETAS
        }

    def compute(context, name: str, eta: float, sweeps: int, kept: int) -> dict:
        data, alone = context[name, eta]
        solution = sinkhorn_newton_sparse(*data, eta, sweeps, 20, kept)
        entries = sparsify(solution.plan, EXPLORER_POINTS * kept).toarray()
        return {"solution": solution, "alone": alone, "entries": entries, "share": entries.sum() / solution.plan.sum()}

    def draw(state) -> go.Figure:
        solution, alone = state["solution"], state["alone"]
        curves = [
            line(name, 1 + np.arange(len(history)), history, colour, dash=dash)
            for name, history, colour, dash in (
                ("Sinkhorn sweeps, then sparse Newton", solution.history, theme.BLUE, "solid"),
                ("Sinkhorn alone", alone.history, theme.VERMILION, "dash"),
            )
        ]
        switch = line("switch to Newton", [solution.n_sinkhorn] * 2, [1e-16, 3], theme.GREY, dash="dot")
        logs = np.log10(np.where(state["entries"] > 0, np.maximum(state["entries"], 1e-12), np.nan))
        kept = heat_map(logs, title="log10 mass", zmin=-12, zmax=-2)
        violations = {"type": "log", "range": [-16, 0.5]}
        return panels(
            Panel("violation after each iteration", [*curves, switch], "iterations", "marginal violation",
                  {"range": [0, EXPLORER_CAP / 2]}, violations),
            Panel("entries that the Hessian keeps", [kept], "column of the plan", "row of the plan",
                  {}, {"autorange": "reversed"}),
            widths=(0.55, 0.45),
        )  # fmt: skip

    def describe(values, state) -> str:
        solution, alone = state["solution"], state["alone"]
        outcome = "reach" if solution.history[-1] < 1e-10 else "do not reach 1e-10 but"
        return (
            f"{solution.n_sinkhorn} sweeps and {solution.n_newton} Newton steps {outcome} a violation of "
            f"{solution.history[-1]:.1e}; {len(alone.history)} sweeps of Sinkhorn alone leave {alone.history[-1]:.1e}. "
            f"The kept entries carry {100 * state['share']:.2f} % of the mass."
        )

    return Explorer(
        controls=(
            Choice("name", "cost", tuple(SETTINGS), default="points in a square"),
            Choice("eta", "inverse regularisation η", ETAS, default=200.0),
            Choice("sweeps", "sweeps before the switch", (1, 5, 20, 50, 100), default=20),
            Choice("kept", "entries kept in the Hessian", KEPT, default=20, unit="a row"),
        ),
        prepare=prepare,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Keep 2 or 5 entries a row: the elbow turns into a slope, because the dropped entries carry mass.",
            "Make η small: Sinkhorn alone becomes fast, and the plan is no longer sparse.",
            "Switch after one sweep: Newton's method still finds its way, with a few more steps.",
        ),
        name="sinkhorn_newton_sparse",
    )
