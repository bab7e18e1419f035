r"""DPM-OT: most of a reverse diffusion replaced by one transport map.

A diffusion model turns white noise into data by many small denoising steps. The first and most of them only find out
roughly where a sample will lie. DPM-OT leaves them out: it noises training points a little, stores them, and computes
the optimal transport map from white noise to these stored latents. A sample is a noise point, one jump along the map,
and a few last denoising steps. The map is piecewise constant: it jumps from one latent to the next and never stops
between two modes of the data, where few and long smooth steps get stuck.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`z`               white noise, :math:`N(0, I)` in ``d`` dimensions
:math:`y_i`             latent :math:`x_i + \sigma_M \varepsilon_i` of a training point, ``(N, d)``
:math:`\sigma`          noise level; :math:`\sigma_M` is the one at which the latents stand
:math:`h_i`             height of latent i; :math:`w_i(h)` the mass of its cell, :math:`\nu_i` the wanted one
:math:`s(x, \sigma)`    score :math:`\nabla\log p_\sigma`, of the data's density with noise of level :math:`\sigma`
======================= ========================================================================================

The Brenier potential :math:`u_h(z) = \max_i (\langle z, y_i\rangle + h_i)` is convex, and its gradient is the map:
:math:`T(z) = y_i` on the cell where i wins. The heights minimise the convex energy
:math:`E(h) = \mathbb{E}[u_h(z)] - \langle \nu, h\rangle`, with gradient :math:`w(h) - \nu`: counted on random noise
points, followed by Adam. Then :math:`dx/d\sigma = -\sigma s(x, \sigma)` from :math:`\sigma_M` to 0 in few steps.

Guarantee: at the minimum every latent has its mass, and no other map to the latents with these masses moves the noise
by less, in mean squared distance (Brenier). The masses are counted on n points, so that even exact heights show an
error :math:`\sum_i |w_i - 1/N|` of about :math:`\sqrt{2N / (\pi n)}`. Nothing is guaranteed for the denoising steps.

Not reproduced: images and learned scores; here the score is exact. The published code denoises by annealed Langevin
steps; here it is the equation above, or ancestral steps with fresh noise. It doubles the noise points and takes 0.8
times the rate when progress stalls; here the rate falls linearly. It can reject points between cells at a large angle,
and by default does not. Its noise is drawn from a cube, against the text; here it is Gaussian.

Reference: Li, Li, Wang, Lei, Luo, Gu: DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport, ICCV
2023, arXiv 2307.11308. Spacing of the noise levels: Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from paperlab.arguments import finite_array, histogram, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.gaussian_mixture import GaussianMixture
from paperlab.tools.integrators import solve_ode

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


@dataclass(frozen=True, eq=False)
class SemiDiscreteMap:
    """The gradient of the convex potential ``u_h``: a map from all of space to the rows of ``y``.

    ``y``: ``(N, d)``. ``h``: ``(N,)``; only differences matter. Raises ``ValueError`` for other shapes or values.
    """

    y: Float[np.ndarray, "N d"]
    h: Float[np.ndarray, " N"]

    def __post_init__(self):
        y, h = finite_array("y", self.y, ndim=2), finite_array("h", self.h, ndim=1)
        if len(h) != len(y):
            raise ValueError(f"h has {len(h)} heights for {len(y)} latents")
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "h", h)

    def cells(self, z: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """The latent that wins at each point."""
        # argmax_i <z, y_i> + h_i
        return (z @ self.y.T + self.h).argmax(axis=1)

    def masses(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " N"]:
        """The share of the points in each cell."""
        return np.bincount(self.cells(z), minlength=len(self.y)) / len(z)

    def __call__(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The map ``T``."""
        # T(z) = grad u_h(z) = y_i on cell i
        return self.y[self.cells(z)]


def transport_map(
    y: Float[np.ndarray, "N d"],
    rng: np.random.Generator,
    nu=None,
    n_iter: int = 300,
    batch: int = 2000,
    lr: float = 0.1,
) -> SemiDiscreteMap:
    """The optimal transport map from white noise to the latents ``y`` with masses ``nu`` (equal by default).

    Adam on the heights, each of the ``n_iter`` gradients from ``batch`` fresh noise points; the rate falls linearly
    from ``lr``, in units of ``y``, to a fiftieth of it. Raises ``ValueError`` for bad latents, masses or numbers.
    """
    y = finite_array("y", y, ndim=2)
    nu = histogram("nu", np.full(len(y), 1 / len(y)) if nu is None else nu, len(y))
    lr, n_iter, batch = positive("lr", lr), whole_number("n_iter", n_iter, 1), whole_number("batch", batch, 1)
    h, m, v = np.zeros((3, len(y)))
    for t in range(1, n_iter + 1):
        # dE/dh = w(h) - nu
        gradient = SemiDiscreteMap(y, h).masses(rng.standard_normal((batch, y.shape[1]))) - nu
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = lr * (1 - 0.98 * t / n_iter)
        # h <- h - rate m^ / (sqrt(v^) + 1e-8), shifted to mean 0
        h = h - rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        h -= h.mean()
    return SemiDiscreteMap(y, h)


# Score of the noised data: score(x, sigma) for points (n, d), of the same shape.
Score = Callable[[Float[np.ndarray, "n d"], float], Float[np.ndarray, "n d"]]


def exact_score(data: GaussianMixture) -> Score:
    """The score of a Gaussian mixture to which Gaussian noise of level ``sigma`` is added."""
    return lambda x, sigma: GaussianMixture(data.weights, data.means, data.variances + sigma**2).score(x)


def noise_levels(first: float, last: float, n: int) -> Float[np.ndarray, " n+1"]:
    """Falling noise levels for ``n`` steps: ``first`` to ``last``, denser at the end, and 0.

    With one step, ``last`` is not used. Raises ``ValueError`` unless ``first > last > 0``.
    """
    if positive("first", first) <= positive("last", last):
        raise ValueError(f"last={last} must be below first={first}")
    # sigma_k = (first^(1/7) + k / (n - 1) (last^(1/7) - first^(1/7)))^7
    parts = np.linspace(first ** (1 / 7), last ** (1 / 7), whole_number("n", n, 1)) ** 7
    return np.append(parts, 0.0)


def denoise(x: Float[np.ndarray, "n d"], levels: Float[np.ndarray, " n+1"], score: Score, rng=None):
    """Carry points from noise level ``levels[0]`` down to ``levels[-1]``, one evaluation of the score a step.

    Without ``rng`` by the probability flow in Euler steps: each start has one end. With ``rng`` by ancestral steps,
    which denoise further and add fresh noise. Raises ``ValueError`` for levels that do not fall or bad points.
    """
    if rng is None:
        # dx / dsigma = -sigma s(x, sigma)
        return solve_ode(lambda sigma, x: -sigma * score(x, sigma), x, levels, method="euler").end
    for now, then in pairwise(levels):
        # x + (now^2 - then^2) s(x, now) + then sqrt(1 - then^2 / now^2) N(0, I)
        x = x + (now**2 - then**2) * score(x, now)
        x = x + then * np.sqrt(1 - (then / now) ** 2) * rng.standard_normal(x.shape)
    return x


# 25 narrow modes on a grid; a sample that is farther than 4 standard deviations from all of them is mixed.
AXIS, STD = np.array([-4.0, -2.0, 0.0, 2.0, 4.0]), 0.1
MODES = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=2).reshape(-1, 2)
DATA = GaussianMixture(np.full(25, 1 / 25), MODES, np.full(25, STD**2))
LATENTS, SIGMA_M, LAST = 200, 0.5, 0.2
SAMPLES, EVALUATIONS, FEW = 2000, (3, 5, 8, 12, 20), 3
# Schedules of the plain sampler, which starts at pure noise: the best of them is taken at each number of steps.
STARTS, LASTS = (5.0, 10.0, 20.0), (0.05, 0.1, 0.2, 0.3)


def nearest_mode(x: Float[np.ndarray, "n 2"]) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """The nearest of the 25 modes, and whether the sample is mixed."""
    distances = cdist(x, MODES)
    return distances.argmin(axis=1), distances.min(axis=1) > 4 * STD


def frequencies(x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " 25"]:
    """The share of the samples at each mode."""
    return np.bincount(nearest_mode(x)[0], minlength=25) / len(x)


def stored_latents(n: int, sigma: float, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Training points with noise of level ``sigma``."""
    x = DATA.sample(rng, n)
    return x + sigma * rng.standard_normal(x.shape)


def plain_samples(z: Float[np.ndarray, "n 2"], n: int) -> Float[np.ndarray, "n 2"]:
    """The plain sampler from noise with ``n`` steps, by the schedule that mixes least of the twelve."""
    score = exact_score(DATA)
    tried = [denoise(first * z, noise_levels(first, last, n), score) for first in STARTS for last in LASTS]
    return min(tried, key=lambda x: nearest_mode(x)[1].mean())


@dataclass(frozen=True, eq=False)
class Experiment:
    """2000 samples. ``mixed``: share between the modes for each of ``EVALUATIONS``, by arm.

    ``samples``: with 3 evaluations, by arm. ``gap``: l1 distance of mode frequencies to those of the latents,
    with the heights, and without. ``cost``: mean squared distance from noise to latent, by the map, and at random.
    ``jump``: largest step of the output between neighbours on a line of 4001 noise points, by the map, and plain.
    """

    mixed: dict[str, Float[np.ndarray, " e"]]
    samples: dict[str, Float[np.ndarray, "n 2"]]
    gap: Float[np.ndarray, " 2"]
    cost: Float[np.ndarray, " 2"]
    jump: Float[np.ndarray, " 2"]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """200 stored latents at noise level 0.5 of 25 modes; the map, a random latent, and the plain sampler."""
    for_latents, for_map, for_noise = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    y, z = stored_latents(LATENTS, SIGMA_M, for_latents), for_noise.standard_normal((SAMPLES, 2))
    T, flat, score = transport_map(y, for_map), SemiDiscreteMap(y, np.zeros(LATENTS)), exact_score(DATA)
    starts = {"transport map": T(z), "random latent": y[for_noise.integers(LATENTS, size=SAMPLES)]}
    samples = {"plain": [plain_samples(z, n) for n in EVALUATIONS]}
    for arm, x in starts.items():
        samples[arm] = [denoise(x, noise_levels(SIGMA_M, LAST, n), score) for n in EVALUATIONS]
    line = np.stack([np.linspace(-2, 2, 4001), np.full(4001, 0.3)], axis=1)
    levels, wanted = noise_levels(SIGMA_M, LAST, FEW), frequencies(y)
    ends = denoise(T(line), levels, score), plain_samples(line, FEW)
    return Experiment(
        mixed={arm: np.array([nearest_mode(x)[1].mean() for x in runs]) for arm, runs in samples.items()},
        samples={arm: runs[EVALUATIONS.index(FEW)] for arm, runs in samples.items()},
        gap=np.array([np.abs(frequencies(each(z)) - wanted).sum() for each in (T, flat)]),
        cost=np.array([((x - z) ** 2).sum(axis=1).mean() for x in starts.values()]),
        jump=np.array([np.linalg.norm(np.diff(x, axis=0), axis=1).max() for x in ends]),
    )


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    mixed = {arm: dict(zip(EVALUATIONS, map(float, shares), strict=True)) for arm, shares in result.mixed.items()}
    distinct = {arm: len(np.unique(x.round(9), axis=0)) for arm, x in result.samples.items()}
    return (
        Claim(
            id="few_steps",
            statement="A jump along the map and three steps do not end between two modes",
            source="abstract: few function evaluations, less mode mixture",
            quantity="share of 2000 samples between the modes, 3 evaluations of the score",
            unit="",
            measured=mixed["transport map"][FEW],
            relation="<=",
            bound=0.05,
            control=Control("from pure noise, best of 12 schedules", mixed["plain"][FEW], "baseline"),
        ),
        Claim(
            id="modes",
            statement="The heights give every mode its share",
            source="semi-discrete transport: each latent gets its mass",
            quantity="l1 distance of mode frequencies to those of the stored latents",
            unit="",
            measured=float(result.gap[0]),
            relation="<=",
            bound=0.4,
            control=Control("the largest inner product, all heights 0", float(result.gap[1]), "ablation"),
            scale="log",
        ),
        Claim(
            id="cheap",
            statement="The map moves the noise by little",
            source="optimal transport for the squared distance; Brenier",
            quantity="mean squared distance from a noise point to its latent",
            unit="",
            measured=float(result.cost[0]),
            relation="<=",
            bound=12,
            control=Control("a random stored latent", float(result.cost[1]), "baseline"),
        ),
        Claim(
            id="jumps",
            statement="The map jumps from mode to mode; a few smooth steps cannot",
            source="singular set of the Brenier potential",
            quantity="largest jump of the output between noise points that are 0.001 apart, 3 evaluations",
            unit="",
            measured=float(result.jump[0]),
            relation=">=",
            bound=0.3,
            control=Control("from pure noise", float(result.jump[1]), "baseline"),
            scale="log",
        ),
        Observation(
            "Share between the modes, 3 evaluations: transport map, against a random stored latent",
            mixed["transport map"][FEW],
            mixed["random latent"][FEW],
            "A random latent is as good: same latents, same steps. The map adds a fixed path from noise to sample.",
        ),
        Observation(
            "Share between the modes: transport map with 3 evaluations, against pure noise with 12",
            mixed["transport map"][FEW],
            mixed["plain"][12],
            "What the jump saves can also be bought with a few times as many steps.",
        ),
        Observation(
            "Different samples among 2000: transport map, against pure noise",
            distinct["transport map"],
            distinct["plain"],
            "Without fresh noise in the last steps there are no more samples than stored latents.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def energy_gradient(z, y, h, sign=1.0):
        return sign * (SemiDiscreteMap(y, h).masses(z) - 1 / len(y))

    def nearest(z, y, h):
        return np.bincount(cdist(z, y).argmin(axis=1), minlength=len(y)) / len(z) - 1 / len(y)

    def cases(rng):
        return [
            (rng.normal(size=(n, 2)), 3 * rng.normal(size=(N, 2)), rng.normal(size=N)) for n, N in ((9, 3), (40, 6))
        ]

    return (
        Exercise(
            id="energy_gradient",
            task="Write `energy_gradient(z, y, h)`: the gradient of $E(h)$ in the heights, its masses counted on the "
            "noise points `z`, shape `(n, d)`. The latents `y` are `(N, d)`, the heights `h` are `(N,)`, and every "
            "latent wants the mass $1/N$. The answer is `(N,)`.",
            solution=energy_gradient,
            cases=cases,
            slips={
                "The sign: a cell with too much mass has a positive derivative.": partial(energy_gradient, sign=-1.0),
                "The nearest latent is not the winner: take the largest <z, y_i> + h_i.": nearest,
            },
        ),
        Exercise(
            id="enough_steps",
            task="In the explorer start from pure noise. What is the smallest number of evaluations on the control "
            "with which at most 2 % of the samples are between the modes? Bind it to `enough_steps`.",
            solution=lambda: enough_steps("pure noise"),
            slips={
                "That many are enough for the transport map: look at what it starts from.": lambda: 3,
                "Not yet: read the percentage in the sentence.": lambda: 5,
                "That is enough, but so is a smaller number.": lambda: EXPLORER_EVALUATIONS[-1],
            },
            minutes=5,
            kind="experiment",
            answer="The first steps, at high noise, only decide about the region. The map does that in one jump.",
        ),
        Exercise(
            id="what_is_gained",
            task="A random stored latent, followed by the same steps, gives samples of the same quality. What does "
            "the transport map have that it has not? (a) Samples that are not stored. (b) A fixed way from noise to "
            "sample, with neighbours mostly ending at the same mode. (c) Fewer evaluations of the score. "
            'Bind `"a"`, `"b"` or `"c"` to `what_is_gained`.',
            solution=lambda: "b",
            slips={
                "The map's values are the stored latents, too, and nothing else.": lambda: "a",
                "Both need the same steps after the latent.": lambda: "c",
            },
            difficulty=2,
            minutes=5,
            kind="think",
            answer="One can come back to a sample by its noise, and move the noise a little to stay at its mode. New "
            "samples come only from fresh noise in the last steps.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Samples with and without the jump, and the share between the modes over the number of evaluations."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    limits, parts = {"range": [-5.2, 5.2], "dtick": 2}, []
    for arm, title in (("plain", "pure noise, 3 steps"), ("transport map", "transport map, 3 steps")):
        x = result.samples[arm]
        mixed, first = nearest_mode(x)[1], not parts
        clouds = [
            points("at a mode", *x[~mixed].T, theme.BLUE, size=4, showlegend=first),
            points("between the modes", *x[mixed].T, theme.VERMILION, symbol="x", size=5, showlegend=first),
        ]
        parts.append(Panel(title, clouds, "x", "y", limits, limits, True))
    looks = (theme.VERMILION, "dash"), (theme.BLUE, "solid"), (theme.GREEN, "dot")
    shares = [
        line(arm, EVALUATIONS, 100 * mixed, colour, dash=dash)
        for (arm, mixed), (colour, dash) in zip(result.mixed.items(), looks, strict=True)
    ]
    parts.append(Panel("between the modes", shares, "evaluations of the score", "share, %", {"range": [0, 21]}))
    return panels(*parts, gap=0.08, title="Jump first: with three steps, few samples end between the modes")


EXPLORER_EVALUATIONS, EXPLORER_SIGMAS, EXPLORER_LATENTS = (1, 2, 3, 5, 8, 12, 20), (0.25, 0.5, 1.0), (25, 100, 200)
STARTING = ("transport map", "largest product, heights 0", "random stored latent", "pure noise")
TICKS, POINTS = np.linspace(-2.5, 2.5, 51), np.random.default_rng(0).standard_normal((400, 2))


@reproducible()
def explorer_maps() -> dict:
    """A transport map for each noise level and number of latents."""
    from tqdm.auto import tqdm

    maps, seeds = {}, (7, 8)
    for sigma, n in tqdm([(s, n) for s in EXPLORER_SIGMAS for n in EXPLORER_LATENTS], "transport maps", leave=False):
        for_latents, for_map = map(np.random.default_rng, seeds)
        maps[sigma, n] = transport_map(stored_latents(n, sigma, for_latents), for_map, n_iter=200, batch=1000)
    return maps


def explorer_run(T: SemiDiscreteMap | None, z, start: str, n: int, sigma: float, fresh: bool = False):
    """Where noise points start to be denoised, and where they end. ``T`` may be missing for pure noise."""
    rng = np.random.default_rng(9)
    if start == "pure noise":
        x, first = STARTS[1] * z, STARTS[1]
    elif start == "random stored latent":
        x, first = T.y[rng.integers(len(T.y), size=len(z))], sigma
    else:
        x, first = (T if start == "transport map" else SemiDiscreteMap(T.y, 0 * T.h))(z), sigma
    return x, denoise(x, noise_levels(first, LAST, n), exact_score(DATA), rng if fresh else None)


def enough_steps(start: str, share: float = 0.02) -> int:
    """The fewest evaluations of the explorer with which at most this share of its samples is between the modes."""
    runs = ((n, explorer_run(None, POINTS, start, n, SIGMA_M)[1]) for n in EXPLORER_EVALUATIONS)
    return next(n for n, x in runs if nearest_mode(x)[1].mean() <= share)


def explorer() -> Explorer:
    """To which mode each noise point goes, and the samples, with their last steps."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, panels, points, segments
    from paperlab.widgets import Choice, Explorer, Toggle

    grid = np.stack(np.meshgrid(TICKS, TICKS), axis=2).reshape(-1, 2)

    def compute(context, start: str, n: int, sigma: float, latents: int, fresh: bool) -> dict:
        T = context[sigma, latents]
        begin, end = explorer_run(T, np.concatenate([POINTS, grid]), start, n, sigma, fresh)
        return {"begin": begin[: len(POINTS)], "end": end[: len(POINTS)], "map": end[len(POINTS) :]}

    def draw(state) -> go.Figure:
        mode, mixed = nearest_mode(state["map"])
        # Neighbouring modes get different colours; what ends between two modes stays white
        colour = np.where(mixed, np.nan, (7 * mode) % 25).reshape(len(TICKS), -1)
        lost, end = nearest_mode(state["end"])[1], state["end"]
        cells = heat_map(colour, title="", x=TICKS, y=TICKS, showscale=False)
        ways = [
            segments(state["begin"][:60], end[:60], width=1, opacity=0.4),
            points("at a mode", *end[~lost].T, theme.BLUE, size=6),
            points("between the modes", *end[lost].T, theme.VERMILION, symbol="x", size=7),
        ]
        limits, noise = {"range": [-6, 6], "dtick": 2}, {"range": [-2.5, 2.5], "dtick": 1}
        return panels(
            Panel("noise, coloured by the mode it goes to", [cells], "first coordinate of z", "second coordinate of z",
                  noise, noise, True),
            Panel("samples, and the last steps of 60", ways, "first coordinate", "second coordinate",
                  limits, limits, True),
        )  # fmt: skip

    def describe(values, state) -> str:
        shares, mixed = frequencies(state["end"]), nearest_mode(state["end"])[1].mean()
        return (
            f"Evaluations of the score: {values['n']}. Of {len(POINTS)} samples {100 * mixed:.1f} % end between the "
            f"modes. {np.count_nonzero(shares)} of 25 modes are reached; the most frequent one has "
            f"{100 * shares.max():.0f} % of the samples (4 % would be right)."
        )

    return Explorer(
        controls=(
            Choice("start", "start of the last steps", STARTING, default=STARTING[0]),
            Choice("n", "evaluations of the score", EXPLORER_EVALUATIONS, default=3),
            Choice("sigma", "noise level of the latents", EXPLORER_SIGMAS, default=SIGMA_M),
            Choice("latents", "stored latents", EXPLORER_LATENTS, default=100),
            Toggle("fresh", "fresh noise in the last steps"),
        ),
        prepare=explorer_maps,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Start from pure noise: red crosses appear, and white seams between the colours.",
            "Take a random stored latent: the samples are as good, but there is no map any more.",
            "Set the heights to 0: only the outermost latents win, and most modes get nothing.",
            "Store 25 latents only: some modes have none, and are never reached.",
        ),
        name="dpm_ot",
    )
