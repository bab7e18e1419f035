r"""Mixtures of products, learned under the Wasserstein loss by one block at a time.

Many joint distributions are to be written as mixtures of a few, each of them a product: a dictionary of independent
factors. Compared by a Wasserstein loss, mass that lies a little beside its place is nearly right. With all factors but
one fixed the problem is convex, so one minimises over the factors in turn. That may go round in circles. A small price
on moving, the proximal term, stops it, and then the number of rounds to a stationary point is bounded, even if each
round is solved with errors, as long as their sum stays finite.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`x_n, y_n`        joint distribution of d coordinates, ``(I_1, ..., I_d)``, and its reconstruction
:math:`U_k`             factor ``(I_k, R)``: its r-th column is the k-th marginal of atom r
:math:`\Lambda`         code ``(R, N)``: column n holds the shares of the atoms in :math:`y_n`
:math:`\theta`          all blocks :math:`U_1, \ldots, U_d, \Lambda`; all columns are non-negative and sum to 1
:math:`C, \gamma`       cost of moving mass between cells; regularisation, in the same unit
:math:`\lambda`         price on moving a block
======================= ========================================================================================

The loss is :math:`f(\theta) = \sum_n W_\gamma(x_n, y_n)`, with :math:`W_\gamma(x, y) = \min_T \langle T, C \rangle +
\gamma \sum T \log T` over plans from x to y, and :math:`y_n = \sum_r \Lambda_{rn}\, U_1[:, r] \otimes \ldots \otimes
U_d[:, r]`. BCD-PR takes the blocks in turn:

.. math:: B \leftarrow \arg\min_B f(\ldots, B, \ldots) + \tfrac\lambda2 \|B - B_0\|^2 .

A block problem with :math:`y = \mathcal{A} B` is solved in its dual, where the plans are gone: with
:math:`K = e^{-C/\gamma}`, minimise :math:`\sum_n H^*_{x_n}(g_n) + R^*(-\mathcal{A}^* G)`,

.. math:: H^*_x(g) = \gamma \langle x, \log(K e^{g/\gamma}) - \log x \rangle, \qquad
   B = \Pi(B_0 - \mathcal{A}^* G / \lambda) ,

where :math:`\Pi` projects columns to the simplex and :math:`R^*` is the conjugate of :math:`R(B) =
\tfrac\lambda2 \|B - B_0\|^2` on such columns.

Guarantee: if :math:`f` is smooth, and the errors of the block solves have a finite sum, then after n sweeps the
smallest squared stationarity gap so far is :math:`O(1/n)`, up to logarithms. Without errors each sweep lowers f by at
least :math:`\tfrac\lambda2` times its squared step. Nothing is said about global minima. :math:`W_\gamma` itself is
smooth only where y is positive.

Not reproduced: the paper's own experiments. Its full text was not available; the dual is derived here, for costs that
are a sum over the coordinates, and the gap is the usual one for constraints.

Reference: Kwon, Lyu: Complexity of Block Coordinate Descent with Proximal Regularization and Applications to
Wasserstein CP-dictionary Learning, ICML 2023, arXiv 2306.02420.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from paperlab.arguments import cost_matrix, finite_array, positive, whole_number
from paperlab.claims import Claim, Control
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.simplex import project_to_simplex

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

# A factor (I_k, R) or the code (R, N); joint distributions (N, I_1, ..., I_d), or arrays of that shape
Block, Joint = Float[np.ndarray, "rows columns"], Float[np.ndarray, "N *I"]


def project_columns(B: Block) -> Block:
    """The nearest block whose columns are non-negative and sum to 1."""
    return project_to_simplex(B.T).T


def subscripts(blocks: Sequence[Block]) -> tuple[list[str], str]:
    """Letters for ``einsum``: of the blocks, ``ar, br, ..., rn``, and of the data, ``nab...``."""
    bins = "abcdefgh"[: len(blocks) - 1]
    return [*(letter + "r" for letter in bins), "rn"], "n" + bins


def reconstruct(blocks: Sequence[Block]) -> Joint:
    """The mixtures of the atoms; ``blocks`` are the factors ``(I_k, R)``, then the code ``(R, N)``."""
    letters, data = subscripts(blocks)
    # y_n = sum_r Lambda_rn U_1[:, r] x ... x U_d[:, r]
    return np.einsum(f"{','.join(letters)}->{data}", *blocks)


def adjoint(blocks: Sequence[Block], k: int, G: Joint) -> Block:
    """``A* G`` for the linear map ``A`` from the k-th block to the mixtures, the others fixed."""
    letters, data = subscripts(blocks)
    others = [*blocks[:k], *blocks[k + 1 :]]
    return np.einsum(f"{data},{','.join(letters[:k] + letters[k + 1 :])}->{letters[k]}", G, *others)


class WassersteinLoss:
    """``sum_n W_gamma(x_n, y_n)``, the entropic cost of moving ``x_n`` to ``y_n``, and its block problems.

    ``X``: joint distributions ``(N, I_1, ..., I_d)``, non-negative, each of sum 1. ``costs``: for each coordinate the
    cost of moving between its bins, ``(I_k, I_k)``; their sum is the cost between two cells. ``gamma``: regularisation
    in the unit of the costs, at least 1/600 of the largest entry. ``max_iter``: most steps of L-BFGS in a block; they
    begin at the last potentials of that block.
    Raises ``ValueError`` for bad shapes, distributions, or a ``gamma`` that is too small.
    """

    def __init__(self, X: Joint, costs: Sequence, gamma: float, max_iter: int = 50):
        self.X, self.max_iter = finite_array("X", X, ndim=tuple(range(3, 10))), whole_number("max_iter", max_iter, 1)
        sums = self.X.sum(axis=tuple(range(1, self.X.ndim)))
        if self.X.min() < 0 or np.abs(sums - 1).max() > 1e-6:
            raise ValueError(f"X has entries from {self.X.min():g}, sums from {sums.min():g} to {sums.max():g}: not 1")
        if len(costs) != self.X.ndim - 1:
            raise ValueError(f"costs has {len(costs)} matrices for {self.X.ndim - 1} coordinates")
        bins = self.X.shape[1:]
        costs = [cost_matrix(f"costs[{k}]", costs[k], (n, n)) for k, n in enumerate(bins)]
        self.gamma, largest = positive("gamma", gamma), max(np.abs(C).max() for C in costs)
        if largest > 600 * self.gamma:
            raise ValueError(f"gamma={gamma} must be at least 1/600 of the largest cost, {largest:g}")
        # K = e^(-C / gamma) is a product over the coordinates. Empty cells stand for 1e-300: their logarithm is finite
        self.kernels, self.log_X = [np.exp(-C / self.gamma) for C in costs], np.log(np.maximum(self.X, 1e-300))
        self.potentials: dict[int, Joint] = {}

    def log_kernel(self, L: Joint, transposed: bool = False) -> Joint:
        """``log(K e^L)``, one coordinate after the other, the largest entry of each line taken out."""
        for axis, K in enumerate(self.kernels, 1):
            largest = L.max(axis=axis, keepdims=True)
            summed = np.exp(L - largest).swapaxes(axis, -1) @ (K if transposed else K.T)
            L = np.log(summed.swapaxes(axis, -1)) + largest
        return L

    def conjugate(self, G: Joint) -> tuple[float, Joint]:
        """``H*(G) = max_Y <G, Y> - W_gamma(X, Y)``, summed over the data, and its gradient, the best ``Y``."""
        log_KG = self.log_kernel(G / self.gamma)
        # H*_x(g) = gamma <x, log(K e^(g / gamma)) - log x>
        value = self.gamma * (self.X * (log_KG - self.log_X)).sum()
        # grad H*_x(g) = e^(g / gamma) . K^T (x / K e^(g / gamma))
        return value, np.exp(G / self.gamma + self.log_kernel(self.log_X - log_KG, transposed=True))

    def value(self, Y: Joint, tol: float = 1e-6, max_sweeps: int = 500) -> float:
        """The loss by Sinkhorn's algorithm, until at most ``tol`` of any mass is misplaced; too low before that."""
        log_Y, G, cells = np.log(np.maximum(Y, 1e-300)), np.zeros_like(Y), tuple(range(1, Y.ndim))
        for _ in range(max_sweeps):
            conjugate, reached = self.conjugate(G)
            # W_gamma(x, y) = max_g <g, y> - H*_x(g)
            bound = (G * Y).sum() - conjugate
            if np.abs(reached - Y).sum(axis=cells).max() < tol:
                break
            # g = gamma (log y - log K^T (x / K e^(g / gamma)))
            G = G + self.gamma * (log_Y - np.log(np.maximum(reached, 1e-300)))
        return float(bound)

    def solve(self, blocks: Sequence[Block], k: int, lam: float) -> Block:
        """The k-th block that minimises the loss ``+ lam / 2 |B - B_0|^2``, ``B_0`` the present one, by its dual."""

        def dual(flat):
            G = flat.reshape(self.X.shape)
            value, Y = self.conjugate(G)
            # R*(Z) = <Z, B> - lam/2 |B - B_0|^2  at  B = Pi(B_0 + Z / lam),  Z = -A* G
            Z = -adjoint(blocks, k, G)
            B = project_columns(blocks[k] + Z / lam)
            value += (Z * B).sum() - lam / 2 * ((B - blocks[k]) ** 2).sum()
            # its gradient: grad H*(G) - A B
            return value, (Y - reconstruct([*blocks[:k], B, *blocks[k + 1 :]])).ravel()

        start = self.potentials.get(k, np.zeros_like(self.X)).ravel()
        options = {"maxiter": self.max_iter, "ftol": 0, "gtol": 1e-7, "maxcor": 20}
        solution = minimize(dual, start, jac=True, method="L-BFGS-B", options=options)
        G = self.potentials[k] = solution.x.reshape(self.X.shape)
        # B = Pi(B_0 - A* G / lam)
        return project_columns(blocks[k] - adjoint(blocks, k, G) / lam)


def bcd_pr(blocks: Sequence[Block], solve: Callable, n_sweeps: int, lam: float, active: Sequence[int] | None = None):
    """Block coordinate descent with proximal regularisation: the list of blocks before and after each sweep.

    ``solve(blocks, k, lam)``: the k-th block that minimises the objective ``+ lam / 2 |B - blocks[k]|^2``. ``active``:
    the blocks that are updated, in their order; all by default. ``lam``: 0 only for comparison.
    Raises ``ValueError`` for a negative ``lam`` or a bad count.
    """
    if not (np.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam={lam} must be finite and not negative")
    path = [list(blocks)]
    for _ in range(whole_number("n_sweeps", n_sweeps, 1)):
        blocks = list(blocks)
        for k in range(len(blocks)) if active is None else active:
            # B_k <- argmin f(new blocks before k, B, old blocks after k) + lam/2 |B - B_k|^2
            blocks[k] = solve(blocks, k, lam)
        path.append(blocks)
    return path


def wasserstein_cp_dictionary(X: Joint, rank: int, costs, gamma: float, lam: float, n_sweeps: int, rng, max_iter=50):
    """Learn ``rank`` product atoms: the factors and the code, at a random start and after each sweep.

    ``rng``: NumPy generator. Other arguments and errors as in ``WassersteinLoss`` and ``bcd_pr``; ``lam`` is positive.
    """
    loss = WassersteinLoss(X, costs, gamma, max_iter)
    start = random_blocks(loss.X.shape, whole_number("rank", rank, 1), rng)
    return bcd_pr(start, loss.solve, n_sweeps, positive("lam", lam))


def random_blocks(shape: tuple[int, ...], rank: int, rng: np.random.Generator) -> list[Block]:
    """Random factors and a random code for data ``(N, I_1, ..., I_d)``."""
    return [*(random_columns(size, rank, rng) for size in shape[1:]), random_columns(rank, shape[0], rng)]


def random_columns(rows: int, columns: int, rng: np.random.Generator) -> Block:
    """A random block, its columns uniform on the simplex."""
    return rng.dirichlet(np.ones(rows), columns).T


def encode(loss: WassersteinLoss, factors: Sequence[Block], n_sweeps: int, lam: float) -> list[Block]:
    """The factors, and the best code for the data of a loss: proximal steps on the code alone, which is convex."""
    start = np.full((factors[0].shape[1], len(loss.X)), 1 / factors[0].shape[1])
    return bcd_pr([*factors, start], loss.solve, n_sweeps, lam, active=[len(factors)])[-1]


def stationarity_gap(blocks: Sequence[Block], gradients: Sequence[Block]) -> float:
    """``sup <-grad f, theta' - theta>`` over feasible ``theta'`` at a distance of at most 1; 0 at stationary points."""

    def move(step):
        return [project_columns(B - step * G) - B for B, G in zip(blocks, gradients, strict=True)]

    # The best theta' is the projection of theta - s grad f, for the largest s that keeps the distance
    norm = np.sqrt(sum((G**2).sum() for G in gradients)) or 1.0
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        too_far = sum((D**2).sum() for D in move(10**middle / norm)) > 1
        low, high = (low, middle) if too_far else (middle, high)
    return max(0.0, float(-sum((G * D).sum() for G, D in zip(gradients, move(10**low / norm), strict=True))))


BINS, HISTOGRAMS, JITTER, GAMMA = 8, 24, 1.5, 0.5
# Sweeps after which the gap is measured
SWEEPS = (1, 5, 10, 20, 40)
# Where two bumps are on average, in bins, and the squared distances of bins, for both coordinates, in bins²
CENTRES = (BINS - 1) * np.array([[0.25, 0.75], [0.75, 0.25]])
COSTS = [np.square(np.subtract.outer(np.arange(BINS), np.arange(BINS)), dtype=np.float64)] * 2


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was measured, by arm.

    ``powell``: length of the step in each of 10 sweeps, by lambda. ``gap``: smallest squared gap up to each of
    ``SWEEPS``, by the kind of error, geometric mean of 2 data sets. ``shares``: error of the shares of new histograms,
    by loss, mean of the 2. Of the second one, by loss: ``atoms``, the mean of the two atoms, and ``codes``, the shares
    of new histograms, which are ``codes["true"]``.
    """

    powell: dict[float, Float[np.ndarray, " 10"]]
    gap: dict[str, Float[np.ndarray, " k"]]
    shares: dict[str, float]
    atoms: dict[str, Float[np.ndarray, "8 8"]]
    codes: dict[str, Block]


class SquaredLoss:
    """The baseline: half the squared differences of ``X`` and the mixtures, for the same atoms and constraints."""

    def __init__(self, X: Joint):
        self.X = X

    def gap(self, blocks: Sequence[Block]) -> float:
        """The stationarity gap."""
        difference = reconstruct(blocks) - self.X
        return stationarity_gap(blocks, [adjoint(blocks, k, difference) for k in range(len(blocks))])

    def solve(self, blocks: Sequence[Block], k: int, lam: float) -> Block:
        """The block problem, nearly: 5 projected gradient steps from the present block."""

        def apply(B):
            return reconstruct([*blocks[:k], B, *blocks[k + 1 :]])

        # A* A has no negative entries, so its largest row sum bounds its norm
        B, rate = blocks[k], 1 / (adjoint(blocks, k, apply(np.ones_like(blocks[k]))).max() + lam)
        for _ in range(5):
            B = project_columns(B - rate * (adjoint(blocks, k, apply(B) - self.X) + lam * (B - blocks[k])))
        return B


def powell_solve(blocks: Sequence[Block], k: int, lam: float) -> Block:
    """The exact block step for Powell's function ``-xy - yz - zx + sum (|x| - 1)_+^2`` in the cube from -2 to 2."""
    # slope 0:  lam x + 2 sign(x) (|x| - 1)_+ = u  with  u = sum of the others + lam x_0
    u = sum(blocks) - blocks[k] + lam * blocks[k]
    return np.clip(np.where(np.abs(u) > lam, np.sign(u) * (np.abs(u) + 2) / (lam + 2), u / max(lam, 1e-300)), -2, 2)


def powell_path(epsilon: float, lam: float) -> Float[np.ndarray, "11 3"]:
    """Powell's three numbers, each a block of its own, before and after each of 10 sweeps, from near (-1, 1, -1)."""
    start = [np.array([[value]]) for value in (-1 - epsilon, 1 + epsilon / 2, -1 - epsilon / 4)]
    return np.reshape(bcd_pr(start, powell_solve, 10, lam), (11, 3))


def wandering_bumps(n: int, jitter: float, rng: np.random.Generator) -> tuple[Joint, Block]:
    """``n`` histograms ``(n, 8, 8)`` of two narrow bumps each, and the shares of the bumps ``(2, n)``.

    Each bump is a product. It wanders by up to ``jitter`` bins in each coordinate; each cell has 20 % noise.
    """
    shares, centres = rng.dirichlet([1, 1], size=n), CENTRES + jitter * rng.uniform(-1, 1, size=(n, 2, 2))
    bumps = np.exp(-((np.arange(BINS) - centres[..., None]) ** 2) / (2 * 0.6**2))
    bumps /= bumps.sum(axis=-1, keepdims=True)
    X = np.einsum("nr,rna,rnb->nab", shares, *bumps.swapaxes(0, 2)) * np.exp(rng.normal(0, 0.2, (n, BINS, BINS)))
    return X / X.sum(axis=(1, 2), keepdims=True), shares.T


def mean_atom(blocks: Sequence[Block]) -> Float[np.ndarray, "8 8"]:
    """The mean of the two atoms."""
    return reconstruct([*blocks[:-1], np.full((2, 1), 0.5)])[0]


def in_order(code: Block, shares: Block) -> Block:
    """The code with its two rows in the order that fits the shares: atoms have no order."""
    return min(code, code[::-1], key=lambda rows: np.abs(rows - shares).mean())


def share_error(code: Block, shares: Block) -> float:
    """Mean error of the shares of two atoms."""
    return float(np.abs(in_order(code, shares) - shares).mean())


def with_errors(solve: Callable, size: Callable[[int], float], rng: np.random.Generator) -> Callable:
    """A solver whose solutions are mixed with a random block; its share is ``size(n)`` in the n-th sweep."""
    calls = itertools.count()

    def inexact(blocks, k, lam):
        share = size(next(calls) // len(blocks) + 1)
        return (1 - share) * solve(blocks, k, lam) + share * random_columns(*blocks[k].shape, rng)

    return inexact


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Powell's function, errors in the solves, and 2 times 24 histograms of 8 x 8 bins with 24 new ones."""
    for_powell, for_data, for_start, for_errors = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(4))
    epsilon = for_powell.uniform(0.05, 0.5)
    shares, gaps = {"Wasserstein": [], "squared": []}, {"shrinking": [], "constant": []}
    for _ in range(2):
        (X, _), (new, truth) = (wandering_bumps(HISTOGRAMS, JITTER, for_data) for _ in range(2))
        start, atoms, codes = random_blocks(X.shape, 2, for_start), {}, {"true": truth}
        for name, loss, sweeps, lam, unseen in (
            ("Wasserstein", WassersteinLoss(X, COSTS, GAMMA, 30), 6, 2.0, WassersteinLoss(new, COSTS, GAMMA, 30)),
            ("squared", SquaredLoss(X), 25, 0.01, SquaredLoss(new)),
        ):
            *factors, _ = bcd_pr(start, loss.solve, sweeps, lam)[-1]
            blocks = encode(unseen, factors, 3, lam / 2)
            atoms[name], codes[name] = mean_atom(blocks), in_order(blocks[-1], truth)
            shares[name].append(share_error(blocks[-1], truth))
        for name, size in (("shrinking", lambda n: 0.3 / n**2), ("constant", lambda n: 0.02)):
            path = bcd_pr(start, with_errors(loss.solve, size, for_errors), SWEEPS[-1], 0.001)
            gaps[name].append(np.minimum.accumulate([loss.gap(path[n]) ** 2 for n in SWEEPS]))
    return Experiment(
        {lam: np.linalg.norm(np.diff(powell_path(epsilon, lam), axis=0), axis=1) for lam in (1.0, 0.0)},
        {name: np.exp(np.log(squares).mean(axis=0)) for name, squares in gaps.items()},
        {name: float(np.mean(errors)) for name, errors in shares.items()},
        atoms,
        codes,
    )


def claims(result: Experiment) -> tuple[Claim, ...]:
    """What the paper says, in numbers of one run."""
    return (
        Claim(
            id="cycle",
            statement="The proximal term ends the cycle in which plain block descent is caught on Powell's function",
            source="why proximal regularisation; Powell's example (1973)",
            quantity="length of the step in the tenth sweep",
            unit="",
            measured=float(result.powell[1.0][-1]),
            relation="<=",
            bound=1.5,
            control=Control("λ = 0, from the same start", float(result.powell[0.0][-1]), "ablation"),
        ),
        Claim(
            id="errors",
            statement="Errors in the block solves do no harm if their sum is finite; if they stay, the descent ends",
            source="theorem for inexact BCD-PR, whose errors are summable",
            quantity="smallest squared stationarity gap in 40 sweeps, squared loss, geometric mean of 2 runs",
            unit="",
            measured=float(result.gap["shrinking"][-1]),
            relation="<=",
            bound=1e-5,
            control=Control("errors of one size", float(result.gap["constant"][-1]), "assumption violated"),
            scale="log",
        ),
        Claim(
            id="shares",
            statement="The code of the Wasserstein dictionary says how much mass each bump has, wherever it lies",
            source="application: Wasserstein CP-dictionary learning",
            quantity="error of the shares of the two bumps, mean of 48 new histograms",
            unit="",
            measured=result.shares["Wasserstein"],
            relation="<=",
            bound=0.065,
            control=Control("the same atoms under the squared loss", result.shares["squared"], "baseline"),
            scale="log",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def smoothed(g, x, C, gamma):
        return float(gamma * x @ (np.log(np.exp(-C / gamma) @ np.exp(g / gamma)) - np.log(x)))

    def cases(rng):
        return [(rng.normal(size=n), rng.dirichlet(np.ones(n)), rng.uniform(size=(n, n)), 0.3) for n in (2, 3, 5)]

    return (
        Exercise(
            id="smoothed",
            task=r"Write `smoothed(g, x, C, gamma)`: the conjugate $H^*_x(g) = \gamma \langle x, \log(K e^{g/\gamma}) "
            r"- \log x \rangle$ with $K = e^{-C/\gamma}$, for one histogram `x` `(n,)`, a potential `g` `(n,)` and "
            "costs `C` `(n, n)`, from rows to columns. Return a number.",
            solution=smoothed,
            cases=cases,
            slips={
                "Your costs are transposed: x is on the rows.": lambda g, x, C, gamma: smoothed(g, x, C.T, gamma),
                "Subtract log x: its entropy.": lambda g, x, C, gamma: smoothed(g, x, C, gamma) + gamma * x @ np.log(x),
                "The factor γ in front is missing.": lambda g, x, C, gamma: smoothed(g, x, C, gamma) / gamma,
            },
        ),
        Exercise(
            id="sweeps_needed",
            task="In the explorer choose λ = 20. After how many sweeps, of those on the control, are the Wasserstein "
            "shares first better than those of the squared loss? Bind the number to `sweeps_needed`.",
            solution=lambda: sweeps_needed(20.0),
            slips={
                "That is the answer for λ = 2. With a larger λ the blocks move less.": lambda: sweeps_needed(2.0),
            },
            difficulty=2,
            kind="experiment",
            answer="With λ = 2 it takes one sweep less: a larger λ makes each block step shorter.",
        ),
        Exercise(
            id="why_prox",
            task="Why can BCD-PR not go round a cycle for ever, if the blocks are solved exactly? (a) The proximal "
            "term makes the objective convex. (b) Each sweep lowers the objective by at least λ/2 times its squared "
            "step. (c) The proximal term pulls all blocks back to the start. "
            'Bind `"a"`, `"b"` or `"c"` to `why_prox`.',
            solution=lambda: "b",
            slips={
                "Only the block problems become strongly convex; the objective stays as it is.": lambda: "a",
                "The pull is towards the last value of the block, and that moves along.": lambda: "c",
            },
            kind="think",
            answer="A step lowers the objective by at least what it pays, so a value it once had cannot come back.",
        ),
    )


def pictures(left: Float[np.ndarray, "8 8"], atoms: Float[np.ndarray, "8 8"], codes: dict, *titles: str) -> go.Figure:
    """Two histograms, the second with crosses where the bumps are on average; and the shares found over the true ones.

    ``titles``: of the first histogram and of the figure.
    """
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, line, panels, points

    axis, unit, names = {"range": [-0.5, BINS - 0.5], "dtick": 2}, {"range": [-0.03, 1.03]}, ("second bin", "first bin")
    marks = points("mean places of the bumps", *CENTRES.T[::-1], theme.ORANGE, symbol="x")
    shares = [
        line("right", [0, 1], [0, 1], theme.BLACK, dash="dash", showlegend=False),
        points("squared loss", codes["true"][0], codes["squared"][0], theme.VERMILION, symbol="diamond"),
        points("Wasserstein loss", codes["true"][0], codes["Wasserstein"][0], theme.BLUE),
    ]
    heats = [heat_map(mass, title="", zmin=0, zmax=0.2, showscale=False) for mass in (left, atoms)]
    return panels(
        Panel(titles[0], heats[:1], *names, axis, axis),
        Panel("Wasserstein loss: atoms", [heats[1], marks], *names, axis, axis),
        Panel("share of the lower bump", shares, "true", "found", unit, unit),
        title=titles[1],
    )


def figure(result: Experiment) -> go.Figure:
    """The mean of the two atoms under either loss, and the shares of the bumps in 24 new histograms."""
    title = "The bumps wander: only Wasserstein atoms know how much mass each of them has"
    return pictures(result.atoms["squared"], result.atoms["Wasserstein"], result.codes, "squared loss: atoms", title)


EXPLORER_SWEEPS = (0, 1, 2, 3, 4)


@cache
def explorer_run(jitter: float, gamma: float, lam: float) -> tuple:
    """8 histograms, their shares, the code of the squared loss, the blocks of the Wasserstein dictionary by sweep."""
    X, shares = wandering_bumps(8, jitter, np.random.default_rng(3))
    start = random_blocks(X.shape, 2, np.random.default_rng(4))
    path = bcd_pr(start, WassersteinLoss(X, COSTS, gamma, max_iter=20).solve, EXPLORER_SWEEPS[-1], lam)
    return X, shares, in_order(bcd_pr(start, SquaredLoss(X).solve, 25, 0.01)[-1][-1], shares), path


def sweeps_needed(lam: float) -> int:
    """After how many sweeps the explorer's Wasserstein shares beat the squared loss; jitter 1.5, gamma 0.5."""
    _, shares, squared, path = explorer_run(1.5, 0.5, lam)
    return next(n for n in EXPLORER_SWEEPS if share_error(path[n][-1], shares) < share_error(squared, shares))


def explorer() -> Explorer:
    """Histograms, and the atoms of both losses, sweep by sweep."""
    from paperlab.widgets import Choice, Explorer

    def compute(context, jitter, gamma, lam, sweeps, histogram) -> dict:
        X, shares, squared, path = context[jitter, gamma, lam]
        codes = {"true": shares, "squared": squared, "Wasserstein": in_order(path[sweeps][-1], shares)}
        return {"data": X[histogram - 1], "atoms": mean_atom(path[sweeps]), "codes": codes}

    def describe(values, state) -> str:
        shares, *found = (state["codes"][name] for name in ("true", "Wasserstein", "squared"))
        wasserstein, squared = (100 * share_error(code, shares) for code in found)
        return (
            f"Error of the shares, mean of 8 histograms: {wasserstein:.1f} % under the Wasserstein loss (sweeps: "
            f"{values['sweeps']}), {squared:.1f} % under the squared loss. The lower bump of histogram "
            f"{values['histogram']} has {100 * shares[0, values['histogram'] - 1]:.0f} % of its mass."
        )

    return Explorer(
        controls=(
            Choice("jitter", "bumps wander by up to", (0.0, 1.5), default=1.5, unit="bins"),
            Choice("gamma", "regularisation γ", (0.5, 3.0), default=0.5, unit="bins²"),
            Choice("lam", "price on moving, λ", (2.0, 20.0), default=2.0),
            Choice("sweeps", "sweeps over all blocks", EXPLORER_SWEEPS, default=4),
            Choice("histogram", "histogram", (1, 2, 3, 4), default=1),
        ),
        prepare=lambda: {key: explorer_run(*key) for key in itertools.product((0.0, 1.5), (0.5, 3.0), (2.0, 20.0))},
        compute=compute,
        draw=lambda state: pictures(state["data"], state["atoms"], state["codes"], "one histogram", ""),
        describe=describe,
        notice=(
            "Go from histogram to histogram: the bumps wander. In the middle they stay whole.",
            "Let the bumps wander by 0 bins: now the squared loss finds better shares than the Wasserstein loss.",
            "Go through the sweeps from 0, with λ = 2 and with λ = 20.",
            "Set γ to 3 bins²: the atoms are blurred, since a little moving is then free.",
        ),
        name="wasserstein_cp_dictionary",
    )
