r"""Sliced Wasserstein distances that look where clouds differ, with the direction guessed by attention.

Sliced distances compare clouds of points along directions. Random directions are cheap but mostly see little; the best
direction sees most but must be searched for each pair, and a direction that is not quite the best may see nothing at
all. This method averages over a cap of directions around a location on the sphere, which is a metric wherever the
location lies. And it does not search: a small network, trained on many pairs, reads both clouds and names the location
in one pass. Attention makes it blind to the order of the points, and a sum blind to the order of the clouds.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`X, Y`            clouds of n points each, ``(n, d)``; batches of B pairs are ``(B, n, d)``
:math:`W(\theta)`       squared 2-Wasserstein distance of the clouds projected onto the unit vector :math:`\theta`
:math:`\mu, \kappa`     location and concentration of the von Mises-Fisher distribution of directions,
                        :math:`p(\theta) \propto e^{\kappa \mu^T \theta}`
:math:`A`               attention: from a cloud to a vector ``(d,)``
======================= ========================================================================================

.. math:: \mathrm{vDSW}^2(X, Y; \mu) = E_{\theta \sim \mathrm{vMF}(\mu, \kappa)} W(\theta), \qquad
   \mu = f(X, Y) = \frac{A(X) + A(Y)}{\|A(X) + A(Y)\|} .

Efficient attention with weights :math:`W_q, W_k` ``(d, d_k)`` and :math:`W_v` ``(d, d)``: queries
:math:`q = \mathrm{softmax}(X W_q)` over features, keys :math:`k = \mathrm{softmax}(X W_k)` over points, and
:math:`A(X)` is the mean over points of :math:`q\,(k^T X W_v)`. It costs :math:`O(n)`; full attention, which the paper
also tries, :math:`O(n^2)`. The weights are trained to make the mean of :math:`\mathrm{vDSW}(X, Y; f(X, Y))` over pairs
large. The paper's v-DSW is the maximum over :math:`\mu`, which the network stands in for.

Guarantee: for each fixed :math:`\mu` and finite :math:`\kappa`, vDSW is a metric. It is at most the largest
:math:`W(\theta)^{1/2}`, which it reaches for :math:`\kappa \to \infty` at the best :math:`\mu`; for
:math:`\kappa \to 0` it is the sliced distance. :math:`f` does not depend on the order of points or clouds. That the
network finds good locations is not guaranteed.

Not reproduced: auto-encoders on ShapeNet and ModelNet, whose reconstructions the paper compares, and timings.

Reference: Nguyen, Nguyen, Ho: Self-Attention Amortized Distributional Projection Optimization for Sliced Wasserstein
Point-Cloud Reconstruction, ICML 2023, arXiv 2301.04791.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.sliced import fibonacci_directions, random_directions

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

Clouds = Float[Tensor, "B n d"]


def unit(v: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Vectors divided by their length; 0 stays 0."""
    return v / (v.square().sum(dim=-1, keepdim=True) + 1e-30).sqrt()


def sliced_w2(X: Clouds, Y: Clouds, theta: Float[Tensor, "B L d"]) -> Float[Tensor, "B L"]:
    """``W``: squared distances of projected clouds, pair by pair and direction by direction; ``theta`` may have B = 1.

    Raises ``ValueError`` for clouds of different shapes, or directions of another dimension.
    """
    if X.ndim != 3 or X.shape != Y.shape or 0 in X.shape:
        raise ValueError(f"Y has shape {tuple(Y.shape)}, X has {tuple(X.shape)}; both (B, n, d) are needed")
    if theta.shape[-1] != X.shape[-1]:
        raise ValueError(f"theta has shape {tuple(theta.shape)}; directions in dimension {X.shape[-1]} are needed")
    # W(theta) = 1/n sum_i (sorted theta^T x - sorted theta^T y)_i^2
    on_x, on_y = ((theta @ Z.mT).sort(dim=-1).values for Z in (X, Y))
    return (on_x - on_y).square().mean(dim=-1)


def vmf_cosines(kappa: float, d: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """``mu^T theta`` for directions of a von Mises-Fisher distribution; if d = 3 by inversion, else by rejection.

    Source: Wood 1994, Simulation of the von Mises Fisher distribution.
    """
    if d == 3:
        u = rng.uniform(size=shape)
        # w = 1 + log(u + (1 - u) e^(-2 kappa)) / kappa
        return 1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa
    b = (d - 1) / (2 * kappa + np.sqrt(4 * kappa**2 + (d - 1) ** 2))
    x = (1 - b) / (1 + b)
    w, missing = np.empty(shape), np.ones(shape, dtype=bool)
    while missing.any():
        z, u = rng.beta((d - 1) / 2, (d - 1) / 2, missing.sum()), rng.uniform(size=missing.sum())
        tried = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        log_ratio = kappa * (tried - x) + (d - 1) * (np.log1p(-x * tried) - np.log1p(-(x**2)))
        w[missing] = np.where(log_ratio >= np.log(u), tried, np.nan)
        missing = np.isnan(w)
    return w


def sample_vmf(mu: Float[Tensor, "B d"], kappa: float, L: int, rng: np.random.Generator) -> Float[Tensor, "B L d"]:
    """``L`` directions from the von Mises-Fisher distribution around each unit vector ``mu``, differentiable in ``mu``.

    Raises ``ValueError`` for a ``kappa`` that is not positive, ``L`` below 1, or dimension 1.
    """
    (B, d), kappa = mu.shape, positive("kappa", kappa)
    w = vmf_cosines(kappa, whole_number("d", d, 2), (B, whole_number("L", L, 1), 1), rng)
    across = np.sqrt(np.maximum(1 - w**2, 0)) * random_directions((B, L), d - 1, rng)
    # around e_1; then the reflection that takes e_1 to mu: x - 2 <x, h> h, h = (e_1 - mu) / |e_1 - mu|
    x = torch.as_tensor(np.concatenate([w, across], axis=-1))
    h = unit(torch.eye(d)[0] - mu)[:, None, :]
    return x - 2 * (x * h).sum(dim=-1, keepdim=True) * h


class SelfAttentionAmortizer(torch.nn.Module):
    """``f(X, Y)``: from pairs of clouds ``(B, n, d)``, for any n, to locations ``(B, d)``, by efficient attention.

    ``difference``: ``A(X) - A(Y)`` in place of the sum, for comparison. Raises ``ValueError`` for sizes below 1.
    """

    def __init__(self, d: int, d_k: int, rng: np.random.Generator, difference: bool = False):
        super().__init__()
        self.difference = difference
        sizes = [whole_number("d_k", d_k, 1)] * 2 + [whole_number("d", d, 1)]
        self.weights = torch.nn.ParameterList(
            torch.as_tensor(rng.uniform(-1, 1, size=(d, size)) / np.sqrt(d)) for size in sizes
        )

    def attention(self, X: Clouds) -> Float[Tensor, "B d"]:
        """``A(X)``."""
        q, k, v = (X @ W for W in self.weights)
        # mean over points of softmax_features(X W_q) (softmax_points(X W_k)^T X W_v)
        return (q.softmax(dim=-1) @ (k.softmax(dim=-2).mT @ v)).mean(dim=-2)

    def forward(self, X: Clouds, Y: Clouds) -> Float[Tensor, "B d"]:
        # mu = (A(X) + A(Y)) / |A(X) + A(Y)|
        return unit(self.attention(X) + (-1 if self.difference else 1) * self.attention(Y))


class LinearAmortizer(torch.nn.Module):
    """The older amortizer: a weighted sum of all 2n points, made a unit vector; it depends on their order."""

    def __init__(self, n: int, rng: np.random.Generator):
        super().__init__()
        weights = torch.as_tensor(rng.uniform(-1, 1, size=2 * whole_number("n", n, 1)) / np.sqrt(2 * n))
        self.weights = torch.nn.Parameter(weights)

    def forward(self, X: Clouds, Y: Clouds) -> Float[Tensor, "B d"]:
        return unit(self.weights @ torch.cat([X, Y], dim=1))


def mean_distance(X: Clouds, Y: Clouds, mu: Float[Tensor, "B d"], kappa: float, L: int, rng) -> Tensor:
    """The mean over pairs of ``vDSW(X, Y; mu)``, each from ``L`` directions."""
    # (1/L sum_l W(theta_l))^(1/2)
    return sliced_w2(X, Y, sample_vmf(mu, kappa, L, rng)).mean(dim=1).clamp_min(1e-24).sqrt().mean()


def train_amortizer(net, pairs: Callable, steps: int, rng, *, kappa=10.0, L: int = 5, lr: float = 0.06) -> None:
    """Adam upwards on the mean distance at ``net(X, Y)``; ``pairs()`` draws a batch of clouds ``(X, Y)``."""
    weights = list(net.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for t in range(1, whole_number("steps", steps, 1) + 1):
        X, Y = pairs()
        gradients = torch.autograd.grad(mean_distance(X, Y, net(X, Y), kappa, L, rng), weights)
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g.square(), 0.001)
                # w + lr m_hat / (sqrt(v_hat) + epsilon)
                w += lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def ascent_path(X: Clouds, Y: Clouds, steps: int, rng, *, kappa=10.0, L: int = 10, lr: float = 2.0) -> list[Tensor]:
    """Locations ``(B, d)`` before and after each step of projected gradient ascent from random ones, pair by pair."""
    path = [torch.as_tensor(random_directions((len(X),), X.shape[-1], rng))]
    for _ in range(whole_number("steps", steps, 1)):
        mu = path[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(len(X) * mean_distance(X, Y, mu, kappa, L, rng), mu)
        # mu <- (mu + lr grad vDSW) / |mu + lr grad vDSW|
        path.append(unit(mu.detach() + lr * gradient))
    return path


KAPPA, EVEN = 10.0, torch.as_tensor(fibonacci_directions(500))
KINDS = ("tail lost", "moved", "unrelated")


def pairs_of_clouds(kind: str, count: int, n: int, rng: np.random.Generator) -> tuple[Clouds, Clouds]:
    """``count`` pairs of clouds with ``n`` points in three dimensions.

    ``"tail lost"``: X has a long tail in a random direction, Y a shorter one, both have mean 0. ``"moved"``: Y has
    the shape of X, nearer to the origin. ``"unrelated"``: two clouds of any place and shape.
    """
    noise = rng.standard_normal((2, count, n, 3))
    if kind == "tail lost":
        tails = rng.gamma(0.5, size=(2, count, n, 1)) * np.reshape([1.4, 0.4], (2, 1, 1, 1))
        clouds = 0.3 * noise + tails * random_directions((count, 1), 3, rng)
        clouds -= clouds.mean(axis=2, keepdims=True)
    else:
        places = random_directions((2, count, 1), 3, rng) * rng.uniform(0.5, 1.5, size=(2, count, 1, 1))
        shapes = 0.3 * rng.standard_normal((2, count, 3, 3))
        if kind == "moved":
            places[1], shapes[1] = places[0] * rng.uniform(0.2, 0.5, size=(count, 1, 1)), shapes[0]
        clouds = noise @ shapes + places
    return tuple(torch.as_tensor(clouds))


def distance_at(W: Float[Tensor, "B K"], mu: Float[Tensor, "B d"], kappa: float = KAPPA) -> Float[Tensor, " B"]:
    """``vDSW^2`` at each location from ``W`` in the K even directions: an integral in place of a sample."""
    return ((kappa * mu @ EVEN.T).softmax(dim=-1) * W).sum(dim=-1)


def best_distance(W: Float[Tensor, "B K"], kappa: float = KAPPA) -> Float[Tensor, " B"]:
    """The largest ``vDSW^2`` over all even directions as locations."""
    return (W @ (kappa * EVEN @ EVEN.T).softmax(dim=-1).T).max(dim=-1).values


def trained(net, kind: str, rng: np.random.Generator, steps: int = 150):
    """The network after training on batches of 16 pairs with 32 points each."""
    train_amortizer(net, lambda: pairs_of_clouds(kind, 16, 32, rng), steps, rng, kappa=KAPPA)
    return net


def mean_difference(X: Clouds, Y: Clouds) -> Float[Tensor, "B d"]:
    """The location without any training: the direction from one mean to the other."""
    return unit(X.mean(dim=1) - Y.mean(dim=1))


def turn(first: Float[Tensor, "B d"], second: Float[Tensor, "B d"]) -> float:
    """Mean angle in degrees between locations, seen as lines: theta and -theta give the same distance."""
    return float(torch.rad2deg((first * second).sum(dim=-1).abs().clamp(max=1).arccos()).mean())


@dataclass(frozen=True, eq=False)
class Experiment:
    """Means over 64 new pairs with 32 points each; for pairs with a lost tail, over two networks with 64 pairs each.

    ``share``: ``vDSW^2`` at the location as a share of the best, by kind of pairs and arm. ``ascent``: the same for
    lost tails after each step of ascent. ``turned``: degrees by which the location turns when points are shuffled and
    clouds swapped. ``blind``: smallest squared distance over all locations for clouds that were moved, as a share of
    the squared move, with kappa = 10 (``"cap"``) and for ``"single"`` directions.
    """

    share: dict[str, dict[str, float]]
    ascent: Float[np.ndarray, " steps+1"]
    turned: dict[str, float]
    blind: dict[str, float]


def shares(W: Float[Tensor, "B K"], locations: dict[str, Tensor]) -> dict[str, float]:
    """``vDSW^2`` at each location as a share of the best, mean over pairs; ``W`` in the even directions."""
    best = best_distance(W)
    return {name: float((distance_at(W, mu) / best).mean()) for name, mu in locations.items()}


def two_amortizers(rng: np.random.Generator) -> dict[str, torch.nn.Module]:
    """Attention and the linear amortizer, trained alike on pairs with a lost tail."""
    nets = {"attention": SelfAttentionAmortizer(3, 32, rng), "linear": LinearAmortizer(32, rng)}
    return {name: trained(net, KINDS[0], rng) for name, net in nets.items()}


def lost_tails(rng: np.random.Generator) -> tuple[dict, dict, dict]:
    """Both amortizers, trained and tested on pairs with a lost tail: shares, shares along an ascent, turns."""
    nets, (X, Y) = two_amortizers(rng), pairs_of_clouds(KINDS[0], 64, 32, rng)
    W, order = sliced_w2(X, Y, EVEN[None]), torch.as_tensor(rng.permutation(32))
    locations = {name: net(X, Y).detach() for name, net in nets.items()}
    turned = {name: turn(locations[name], net(Y[:, order], X[:, order]).detach()) for name, net in nets.items()}
    return shares(W, locations), shares(W, dict(enumerate(ascent_path(X, Y, 10, rng)))), turned


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Two networks for lost tails, with linear amortizers and ascent beside them, and one for each other kind."""
    for_move, *rngs = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5))
    tails = [lost_tails(rng) for rng in rngs[:2]]
    tail, ascent, turned = ({name: np.mean([run[k][name] for run in tails]) for name in tails[0][k]} for k in range(3))
    share = {KINDS[0]: tail}
    for kind, rng in zip(KINDS[1:], rngs[2:], strict=True):
        net, (X, Y) = trained(SelfAttentionAmortizer(3, 32, rng), kind, rng, 60), pairs_of_clouds(kind, 64, 32, rng)
        W = sliced_w2(X, Y, EVEN[None])
        share[kind] = shares(W, {"attention": net(X, Y).detach(), "mean difference": mean_difference(X, Y)})
        share[kind]["all"] = float((W.mean(dim=1) / best_distance(W)).mean())
    move = torch.as_tensor(for_move.standard_normal((64, 1, 3)))
    W = sliced_w2(X, X + move, EVEN[None]) / move.square().sum(dim=-1)
    cap = torch.stack([distance_at(W, mu.expand(64, 3)) for mu in EVEN]).min(dim=0).values
    blind = {"cap": float(cap.mean()), "single": float(W.min(dim=1).values.mean())}
    return Experiment(share, np.array(list(ascent.values())), turned, blind)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    tail, moved, unrelated = (result.share[kind] for kind in KINDS)
    return (
        Claim(
            id="location",
            statement="Attention learns where to look: the direction of a lost tail, which no mean shows",
            source="self-attention amortized models against the linear one",
            quantity="squared distance at the location, as a share of the best, mean of 128 new pairs",
            unit="",
            measured=tail["attention"],
            relation=">=",
            bound=0.76,
            control=Control("linear amortizer, trained alike", tail["linear"], "baseline"),
        ),
        Claim(
            id="order",
            statement="The location does not depend on the order of the points or of the clouds",
            source="permutation invariance and symmetry",
            quantity="turn of the location when points are shuffled and clouds swapped, mean of 128 pairs",
            unit="degrees",
            measured=result.turned["attention"],
            relation="<=",
            bound=20,
            control=Control("linear amortizer, trained alike", result.turned["linear"], "baseline"),
        ),
        Claim(
            id="never_blind",
            statement="A cap of directions sees a move wherever it lies; a single direction may see nothing",
            source="v-DSW is a metric for every location, amortized Max-SW is not",
            quantity="smallest squared distance over all locations, as a share of the squared move",
            unit="",
            measured=result.blind["cap"],
            relation=">=",
            bound=0.045,
            control=Control("Max-SW: single directions", result.blind["single"], "ablation"),
        ),
        Observation(
            "Share of the best distance where the second cloud was moved: attention, direction between the means",
            moved["attention"],
            moved["mean difference"],
            "No network is needed here: two means name a better direction, at no cost.",
        ),
        Observation(
            "Share of the best distance for unrelated clouds: attention, direction between the means",
            unrelated["attention"],
            unrelated["mean difference"],
            f"A(X) + A(Y) cannot point from cloud to cloud; all directions together have {unrelated['all']:.2f}, too.",
        ),
        Observation(
            "Share of the best distance for lost tails, after one step and after ten steps of ascent",
            float(result.ascent[1]),
            float(result.ascent[10]),
            f"The network has {tail['attention']:.2f} in one pass, as much as about three steps; more steps do better.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def softmax(Z, axis):
        return np.exp(Z) / np.exp(Z).sum(axis=axis, keepdims=True)

    def attend(X, W_q, W_k, W_v, of_q=1, of_k=0):
        return (softmax(X @ W_q, of_q) @ (softmax(X @ W_k, of_k).T @ X @ W_v)).mean(axis=0)

    def cases(rng):
        return [tuple(rng.normal(size=size) for size in ((n, 3), (3, 4), (3, 4), (3, 3))) for n in (2, 5, 9)]

    return (
        Exercise(
            id="attend",
            task="Write `attend(X, W_q, W_k, W_v)` in NumPy: efficient attention of one cloud `X` `(n, d)`, the mean "
            "over its points. `W_q` and `W_k` are `(d, d_k)`, `W_v` is `(d, d)`; return a vector `(d,)`.",
            solution=attend,
            cases=cases,
            slips={
                "Keys are normalised over the points, so that they weigh points.": lambda *a: attend(*a, of_k=1),
                "Queries are normalised over the features of each point.": lambda *a: attend(*a, of_q=0),
                "That is a sum over points; take the mean.": lambda *a: len(a[0]) * attend(*a),
            },
        ),
        Exercise(
            id="capped",
            task="In the explorer, with lost tails and pair 1: which is the largest κ on the control at which the best "
            "location has less than 70 % of the distance in the best single direction? Bind it to `capped`.",
            solution=lambda: max(kappa for kappa in KAPPAS if best_of_single(kappa) < 0.7),
            slips={
                "At the largest κ the cap is nearly a single direction.": lambda: KAPPAS[-1],
            },
            kind="experiment",
            answer="A small κ averages over much of the sphere, a large one is nearly Max-SW.",
        ),
        Exercise(
            id="symmetric",
            task="The distances at θ and at -θ are the same. Which of these give a location that is as good when X and "
            'Y are swapped? (a) A(X) + A(Y) only. (b) A(X) + A(Y) and A(X) - A(Y). (c) A(X). Bind `"a"`, `"b"` or '
            '`"c"` to `symmetric`.',
            solution=lambda: "b",
            slips={
                "What happens to A(X) - A(Y) when the clouds are swapped?": lambda: "a",
                "Swapped, that is A(Y): another vector altogether.": lambda: "c",
            },
            kind="think",
            answer="The difference changes only its sign. And it can point from cloud to cloud, which the sum cannot.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """What the network finds, against steps of ascent and simple choices, for the three kinds of pairs."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels

    tail, steps, axis = result.share[KINDS[0]], np.arange(len(result.ascent)), {"range": [0, 1.05]}
    curves = [
        line("attention", steps, np.full(len(steps), tail["attention"]), theme.BLUE),
        line("linear amortizer", steps, np.full(len(steps), tail["linear"]), theme.GREEN, dash="dash"),
        line("gradient ascent", steps, result.ascent, theme.BLACK, dash="dot"),
    ]
    bars = [
        {"type": "bar", "x": KINDS[1:], "y": [result.share[kind][name] for kind in KINDS[1:]], "name": name,
         "marker": {"color": colour}, "showlegend": name != "attention"}
        for name, colour in (("attention", theme.BLUE), ("mean difference", theme.VERMILION))
    ]  # fmt: skip
    return panels(
        Panel("pairs with a lost tail", curves, "steps of ascent", "share of the best distance", {}, axis),
        Panel("two other kinds of pairs", bars, "pairs", "share of the best distance", {}, axis),
        title="One pass finds a lost tail; where a cloud was moved, two means do better",
    )


KAPPAS = (1.0, 3.0, 10.0, 30.0, 100.0)


def explorer_pair(kind: str, pair: int, shuffled: bool = False) -> tuple[Clouds, Clouds]:
    """One of four pairs; shuffled, the points of both clouds are in another order."""
    order = np.random.default_rng(8).permutation(32) if shuffled else slice(None)
    return tuple(Z[pair - 1 : pair, order] for Z in pairs_of_clouds(kind, 4, 32, np.random.default_rng(4)))


def best_of_single(kappa: float) -> float:
    """The best squared distance of the explorer's first pair as a share of that of the best single direction."""
    W = sliced_w2(*explorer_pair(KINDS[0], 1), EVEN[None])
    return float(best_distance(W, kappa) / W.max())


def explorer() -> Explorer:
    """A map of all locations with those that two amortizers name, and what is seen along the first."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, contours, line, panels, points
    from paperlab.widgets import Choice, Explorer, Toggle

    east, north = np.linspace(-180, 180, 49), np.linspace(-90, 90, 25)
    x, y = np.radians(np.meshgrid(east, north))
    globe = torch.as_tensor(np.stack([np.cos(x) * np.cos(y), np.sin(x) * np.cos(y), np.sin(y)], axis=-1).reshape(-1, 3))

    @torch.no_grad()
    def compute(context, kind, kappa, pair, shuffled) -> dict:
        X, Y = explorer_pair(kind, pair, shuffled)
        W, mu = sliced_w2(X, Y, EVEN[None]), {name: net(X, Y) for name, net in context.items()}
        both = {name: torch.cat([at, -at]).numpy().T for name, at in mu.items()}
        return {
            "map": (distance_at(W, globe, kappa) / W.max()).numpy().reshape(25, 49),
            "marks": {name: np.degrees([np.arctan2(b, a), np.arcsin(c)]) for name, (a, b, c) in both.items()},
            "seen": [np.sort((Z[0] @ mu["attention"][0]).numpy()) for Z in (X, Y)],
            "found": {name: float(distance_at(W, at, kappa) / best_distance(W, kappa)) for name, at in mu.items()},
        }

    def draw(state) -> go.Figure:
        bar, (on_x, on_y), rank = {"title": {"text": "share", "side": "top"}}, state["seen"], np.linspace(0, 1, 32)
        sphere = [
            contours(state["map"], x=east, y=north, colorbar=bar, zmin=0, zmax=1),
            points("attention", *state["marks"]["attention"], theme.VERMILION, size=14, opacity=1),
            points("linear amortizer", *state["marks"]["linear"], theme.SKY, symbol="diamond", size=12, opacity=1),
        ]
        seen = [line("X", rank, on_x, theme.BLUE), line("Y", rank, on_y, theme.ORANGE, dash="dash")]
        degrees = [{"range": [-limit, limit], "dtick": limit / 2} for limit in (180, 90)]
        return panels(
            Panel("squared distance by location", sphere, "longitude, degrees", "latitude, degrees", *degrees),
            Panel("seen from attention's location", seen, "share of the points", "projection", {}, {"range": [-6, 6]}),
            gap=0.22,
        )

    def describe(values, state) -> str:
        return (
            f"The best location has {state['map'].max():.0%} of the squared distance in the best direction. Attention "
            f"finds {state['found']['attention']:.0%} of that, the linear amortizer {state['found']['linear']:.0%}."
        )

    return Explorer(
        controls=(
            Choice("kind", "pairs", KINDS, default=KINDS[0]),
            Choice("kappa", "concentration κ of the cap", KAPPAS, default=10.0),
            Choice("pair", "pair", (1, 2, 3, 4), default=1),
            Toggle("shuffled", "shuffle the points"),
        ),
        prepare=reproducible()(lambda: two_amortizers(np.random.default_rng(0))),
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Shuffle the points: the locations of attention stay, those of the linear amortizer move.",
            "Take pairs that were moved, or that are unrelated: the network has never seen such.",
            "Make κ small: the map is flat, and the location hardly matters.",
        ),
        name="amortized_sliced",
    )
